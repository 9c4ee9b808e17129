package pgsource

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// checkSettings is what is looked at in the server before the stream runs, and while it does.
// It returns what [Source.checkPublication] does.
func (s *Source) checkSettings(ctx context.Context, conn *pgx.Conn) (binary bool, err error) {
	if binary, err = s.checkPublication(ctx, conn); err == nil {
		err = s.warnSynchronous(ctx, conn)
	}
	return binary, err
}

// checkPublication refuses a publication that would leave events out: without it
// 17 ends the stream with an error, 18 sends nothing, in silence. It returns
// whether all columns may come in binary format. It waits for no lock on a table.
func (s *Source) checkPublication(ctx context.Context, conn *pgx.Conn) (binary bool, err error) {
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
// an ancestor.
const tableQuery = `
	WITH RECURSIVE target AS (
		SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $2 AND c.relname = $3),` + Tree + `,
	leaf AS (
		SELECT oid FROM tree WHERE relkind <> 'p'
		UNION ALL SELECT oid FROM target WHERE NOT EXISTS (SELECT FROM tree WHERE relkind <> 'p')),` + Published + `,
	missing AS (SELECT oid FROM leaf WHERE oid NOT IN (SELECT oid FROM published)),
	via AS (
		SELECT n.nspname, c.relname FROM published p JOIN pg_class c ON c.oid = p.via JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE p.via NOT IN (SELECT oid FROM tree) ORDER BY 1, 2 LIMIT 1)
	SELECT EXISTS (SELECT FROM target), EXISTS (SELECT FROM target WHERE relkind = 'p'), NOT EXISTS (SELECT FROM missing JOIN target USING (oid)),
		coalesce((SELECT min(oid::regclass::text) FROM missing), ''),
		coalesce((SELECT nspname FROM via), ''), coalesce((SELECT relname FROM via), ''),
		coalesce((SELECT min(via::bigint) FROM published WHERE filter IS NOT NULL), 0),
		coalesce((SELECT array_agg(DISTINCT a.atttypid::bigint) FROM pg_attribute a
			WHERE a.attrelid IN (SELECT oid FROM line UNION SELECT oid FROM tree) AND a.attnum > 0 AND NOT a.attisdropped), '{}')`

// checkTable refuses a publication that leaves rows of the table out, or brings
// them under a name that is not configured.
func (s *Source) checkTable(ctx context.Context, conn *pgx.Conn, t Table) (binary bool, err error) {
	var (
		exists, partitioned, named bool
		missing                    string
		via                        Table // the ancestor that rows come under
		filtered                   int64 // a table that is published with a row filter, or zero
		types                      []int64
	)
	err = conn.QueryRow(ctx, tableQuery, s.cfg.Publication, t.Schema, t.Name).Scan(&exists, &partitioned, &named, &missing, &via.Schema, &via.Name, &filtered, &types)
	// Of a transaction that has written to the table before it was added the server leaves rows
	// out, and before 17.5, 16.9, 15.13 and 14.18 also of later ones. With the lock there is none.
	// https://www.postgresql.org/docs/release/17.5/
	add := fmt.Sprintf("BEGIN; LOCK TABLE %[2]s IN SHARE ROW EXCLUSIVE MODE; ALTER PUBLICATION %[1]s ADD TABLE %[2]s; COMMIT",
		pgx.Identifier{s.cfg.Publication}.Sanitize(), t)
	switch {
	case err != nil:
		return false, fmt.Errorf("look up table %s: %w", t, err)
	case partitioned:
		s.partitioned.Store(true)
	}
	switch {
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
	if filtered != 0 && !s.filtered {
		s.filtered = true
		s.cfg.Logger.Warn("the publication has a row filter: rows that it leaves out are not published", "table", t.String(), "filter", s.filter(ctx, conn, filtered))
	}
	binary = true
	for _, oid := range types {
		binary = binary && s.cfg.Binary(uint32(oid))
	}
	return binary, nil
}

// filter prints the row filter that a table is published with. The server locks the table for it,
// for which it has a moment only: of a table that somebody else has for himself it says so.
func (s *Source) filter(ctx context.Context, conn *pgx.Conn, oid int64) string {
	query := fmt.Sprintf("SET LOCAL lock_timeout = '100ms'; SELECT pg_get_expr(r.prqual, r.prrelid) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = %s AND r.prrelid = %d",
		literal(s.cfg.Publication), oid)
	results, err := conn.PgConn().Exec(ctx, query).ReadAll()
	if err != nil || len(results) != 2 || len(results[1].Rows) != 1 {
		return fmt.Sprintf("not known now: %v", err)
	}
	return string(results[1].Rows[0][0])
}
