package pgsource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

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

// errStandby says that the server is none to read from now. Behind an address that follows the
// primary it is one for as long as a switchover takes, and what it knows of slot and checkpoint
// is not to be judged.
var errStandby = errors.New("connected to a standby, waiting for the primary: if this does not pass, postgres.dsn leads to the wrong server")

// checkServer refuses a server that cannot do logical replication, and returns errStandby for
// one in recovery.
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
	var standby bool
	if err := conn.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby); err != nil {
		return fmt.Errorf("ask whether the server is a standby: %w", err)
	}
	if standby {
		return errStandby
	}
	return nil
}

// checkPublication refuses a publication that would leave events out: without it
// 17 ends the stream with an error, 18 sends nothing, in silence. It returns
// whether all columns may come in binary format.
//
// The server's functions that list partitions and published tables see what was
// committed after the query's snapshot, so that a partition that is attached or
// detached in that moment looks left out. What is refused is looked at again.
func (s *Source) checkPublication(ctx context.Context, conn *pgx.Conn) (binary bool, err error) {
	for n := 1; ; n++ {
		binary, err = s.lookAtPublication(ctx, conn)
		var refused *cdc.RefusedError
		if n == publicationLooks || !errors.As(err, &refused) {
			return binary, err
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(visibleInterval):
		}
	}
}

// publicationLooks is how many looks in a row must refuse a publication.
const publicationLooks = 5

func (s *Source) lookAtPublication(ctx context.Context, conn *pgx.Conn) (binary bool, err error) {
	name := s.cfg.Publication
	var inserts bool
	err = conn.QueryRow(ctx, "SELECT pubinsert FROM pg_publication WHERE pubname = $1", name).Scan(&inserts)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, noPublication(ctx, conn, name, cdc.Refuse("run walpost init, or set postgres.publication", "publication %q does not exist", name))
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

// tableQuery says of a table which of its rows are published, and how. Rows come as
// those of a leaf, which is the table itself if it has no partitions, or as those of
// an ancestor. Row filters came with 15.
const tableQuery = `
	WITH target AS (
		SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $2 AND c.relname = $3),
	line AS (SELECT oid FROM target UNION SELECT a.relid::oid FROM target, pg_partition_ancestors(target.oid) a),
	leaf AS (
		SELECT oid FROM target WHERE relkind <> 'p'
		UNION SELECT p.relid::oid FROM target, pg_partition_tree(target.oid) p WHERE p.isleaf AND target.relkind = 'p'),
	listed AS (
		SELECT c.oid, n.nspname, c.relname, to_jsonb(t)->>'rowfilter' AS filter
		FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
		JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename WHERE t.pubname = $1),
	named AS (
		SELECT r.prrelid AS oid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1
		UNION SELECT oid FROM listed
		UNION SELECT line.oid FROM line, pg_publication p WHERE p.pubname = $1 AND p.puballtables),
	published AS (
		SELECT leaf.oid, listed.oid AS via, listed.nspname, listed.relname, listed.filter FROM leaf JOIN listed
		ON listed.oid = leaf.oid OR listed.oid IN (SELECT a.relid::oid FROM pg_partition_ancestors(leaf.oid) a))
	SELECT EXISTS (SELECT FROM target),
		CASE WHEN EXISTS (SELECT FROM leaf) THEN NOT EXISTS (SELECT FROM leaf JOIN target USING (oid) WHERE oid NOT IN (SELECT oid FROM published))
			ELSE EXISTS (SELECT FROM line JOIN named USING (oid)) END,
		coalesce((SELECT min(oid::regclass::text) FROM leaf WHERE oid NOT IN (SELECT oid FROM published)), ''),
		coalesce((SELECT min(nspname) FROM published WHERE via IN (SELECT oid FROM line) AND via NOT IN (SELECT oid FROM target)), ''),
		coalesce((SELECT min(relname) FROM published WHERE via IN (SELECT oid FROM line) AND via NOT IN (SELECT oid FROM target)), ''),
		coalesce((SELECT min(filter) FROM published), ''),
		coalesce((SELECT array_agg(DISTINCT a.atttypid::bigint) FROM pg_attribute a
			WHERE a.attrelid IN (SELECT oid FROM line UNION SELECT oid FROM leaf) AND a.attnum > 0 AND NOT a.attisdropped), '{}')`

// checkTable refuses a publication that leaves rows of the table out, or brings
// them under a name that is not configured.
func (s *Source) checkTable(ctx context.Context, conn *pgx.Conn, t Table) (binary bool, err error) {
	var (
		exists, named   bool
		missing, filter string
		via             Table // the ancestor that rows come under
		types           []int64
	)
	err = conn.QueryRow(ctx, tableQuery, s.cfg.Publication, t.Schema, t.Name).Scan(&exists, &named, &missing, &via.Schema, &via.Name, &filter, &types)
	// Of a transaction that has written to the table before it was added the server leaves rows
	// out, and before 17.5, 16.9, 15.13 and 14.18 also of later ones. With the lock there is none.
	// https://www.postgresql.org/docs/release/17.5/
	add := fmt.Sprintf("BEGIN; LOCK TABLE %[2]s IN SHARE ROW EXCLUSIVE MODE; ALTER PUBLICATION %[1]s ADD TABLE %[2]s; COMMIT",
		pgx.Identifier{s.cfg.Publication}.Sanitize(), t)
	switch {
	case err != nil:
		return false, fmt.Errorf("look up table %s: %w", t, err)
	case !exists:
		return false, cdc.Refuse("run walpost init, or set outbox.table", "outbox table %s does not exist", t)
	case !named:
		return false, cdc.Refuse(add, "publication %q does not contain the outbox table %s", s.cfg.Publication, t)
	case missing != "":
		return false, cdc.Refuse(add, "publication %q does not contain %s, a partition of the outbox table %s", s.cfg.Publication, missing, t)
	case via.Name != "" && !slices.Contains(s.cfg.Tables, via):
		return false, cdc.Refuse(fmt.Sprintf("set outbox.table to %s, or ALTER PUBLICATION %s SET (publish_via_partition_root = false)", via, pgx.Identifier{s.cfg.Publication}.Sanitize()),
			"publication %q publishes the rows of the outbox table %s as those of %s", s.cfg.Publication, t, via)
	}
	if filter != "" && !s.filtered {
		s.filtered = true
		s.cfg.Logger.Warn("the publication has a row filter: rows that it leaves out are not published", "table", t.String(), "filter", filter)
	}
	binary = true
	for _, oid := range types {
		binary = binary && s.cfg.Binary(uint32(oid))
	}
	return binary, nil
}
