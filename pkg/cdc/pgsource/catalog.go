package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/pkg/cdc"
)

// minVersion is the oldest server: the first that streams transactions in
// progress and has binary format.
const minVersion = 140000

func serverVersion(ctx context.Context, conn *pgx.Conn) (int, error) {
	var text string
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')").Scan(&text); err != nil {
		return 0, fmt.Errorf("read server version: %w", err)
	}
	return strconv.Atoi(text)
}

// checkServer refuses a server that cannot do logical replication.
func (s *Source) checkServer(ctx context.Context, conn *pgx.Conn) error {
	version, err := serverVersion(ctx, conn)
	if err != nil {
		return err
	}
	if version < minVersion {
		return cdc.Refuse("upgrade Postgres to 14 or later", "server version %d.%d is too old", version/10000, version%10000)
	}
	var level string
	if err := conn.QueryRow(ctx, "SELECT current_setting('wal_level')").Scan(&level); err != nil {
		return fmt.Errorf("read wal_level: %w", err)
	}
	if level != "logical" {
		return cdc.Refuse("ALTER SYSTEM SET wal_level = logical, and restart Postgres", "wal_level is %q, want \"logical\"", level)
	}
	return nil
}

// checkPublication refuses a publication that would leave events out: without it
// 17 ends the stream with an error, 18 sends nothing, in silence. It returns
// whether all columns may come in binary format.
func (s *Source) checkPublication(ctx context.Context, conn *pgx.Conn) (binary bool, err error) {
	name := s.cfg.Publication
	var inserts bool
	err = conn.QueryRow(ctx, "SELECT pubinsert FROM pg_publication WHERE pubname = $1", name).Scan(&inserts)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, cdc.Refuse("run walpost init, or set postgres.publication", "publication %q does not exist", name)
	case err != nil:
		return false, fmt.Errorf("read publication %q: %w", name, err)
	case !inserts:
		return false, cdc.Refuse(fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert')", pgx.Identifier{name}.Sanitize()),
			"publication %q does not publish inserts", name)
	}
	binary = true
	for _, t := range s.cfg.Tables {
		tableBinary, err := s.checkTable(ctx, conn, t)
		if err != nil {
			return false, err
		}
		binary = binary && tableBinary
	}
	return binary, nil
}

// tableQuery says of a table whether it is published, itself, through an
// ancestor or through its partitions, and which types its columns have.
const tableQuery = `
	WITH target AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $2 AND c.relname = $3),
	family AS (
		SELECT oid FROM target
		UNION SELECT a.relid::oid FROM target, pg_partition_ancestors(target.oid) a
		UNION SELECT p.relid::oid FROM target, pg_partition_tree(target.oid) p),
	published AS (
		SELECT c.oid FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
		JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename WHERE t.pubname = $1
		UNION SELECT r.prrelid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1)
	SELECT EXISTS (SELECT FROM target),
		EXISTS (SELECT FROM family JOIN published USING (oid)) OR (SELECT puballtables FROM pg_publication WHERE pubname = $1),
		coalesce((SELECT array_agg(DISTINCT a.atttypid::bigint) FROM pg_attribute a JOIN family f ON f.oid = a.attrelid
			WHERE a.attnum > 0 AND NOT a.attisdropped), '{}')`

func (s *Source) checkTable(ctx context.Context, conn *pgx.Conn, t Table) (binary bool, err error) {
	var (
		exists, published bool
		types             []int64
	)
	err = conn.QueryRow(ctx, tableQuery, s.cfg.Publication, t.Schema, t.Name).Scan(&exists, &published, &types)
	switch {
	case err != nil:
		return false, fmt.Errorf("look up table %s: %w", t, err)
	case !exists:
		return false, cdc.Refuse("run walpost init, or set outbox.table", "outbox table %s does not exist", t)
	case !published:
		return false, cdc.Refuse(fmt.Sprintf("ALTER PUBLICATION %s ADD TABLE %s", pgx.Identifier{s.cfg.Publication}.Sanitize(), t),
			"publication %q does not contain the outbox table %s", s.cfg.Publication, t)
	}
	binary = true
	for _, oid := range types {
		binary = binary && s.cfg.Binary(uint32(oid))
	}
	return binary, nil
}

// lookUp says whether a table is now a partition of an outbox table, and
// whether it is now published.
func (s *Source) lookUp(ctx context.Context, conn *pgx.Conn, oid uint32) (partition, published bool, err error) {
	const query = `
		SELECT EXISTS (
			SELECT FROM pg_partition_ancestors($1::bigint::oid::regclass) a JOIN pg_class c ON c.oid = a.relid
			JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest($2::text[], $3::text[]))),
		EXISTS (
			SELECT FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
			JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
			WHERE t.pubname = $4 AND c.oid = $1::bigint::oid)`
	var schemas, names []string
	for _, t := range s.cfg.Tables {
		schemas, names = append(schemas, t.Schema), append(names, t.Name)
	}
	err = conn.QueryRow(ctx, query, int64(oid), schemas, names, s.cfg.Publication).Scan(&partition, &published)
	if err != nil {
		err = fmt.Errorf("look up relation %d: %w", oid, err)
	}
	return partition, published, err
}
