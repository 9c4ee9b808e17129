package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/table"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// makePlan divides what the exported snapshot sees into chunks. It takes the session for itself.
func makePlan(ctx context.Context, conn *pgx.Conn, cfg Config, e pgsource.Exported, l *locks) (*plan, error) {
	if err := table.Prepare(ctx, conn); err != nil {
		return nil, err
	}
	p := &plan{LSN: e.LSN}
	for _, name := range cfg.Tables {
		err := l.wait(ctx, conn, name, func() error { return p.add(ctx, conn, cfg, name, e.Snapshot, l) })
		if err != nil {
			return nil, err
		}
	}
	if n := p.chunks(); n >= maxPosition {
		return nil, cdc.Refuse("name fewer tables in outbox.table", "the rows before the slot make %d chunks, of less than %d", n, maxPosition)
	}
	return p, nil
}

// add adds a table, in a transaction of its own.
func (p *plan) add(ctx context.Context, conn *pgx.Conn, cfg Config, name pgx.Identifier, snapshot string, l *locks) error {
	if err := enter(ctx, conn, snapshot); err != nil {
		return err
	}
	var text string
	if err := conn.QueryRow(ctx, "SELECT pg_current_snapshot()::text").Scan(&text); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	var err error
	if p.Visible, err = parseVisible(text); err != nil {
		return err
	}
	parts, err := cfg.parts(ctx, conn, name, l)
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	p.Parts = append(p.Parts, parts...)
	return nil
}

// enter begins a transaction that sees what an exported snapshot does, or what there is now.
func enter(ctx context.Context, conn *pgx.Conn, snapshot string) error {
	_, err := conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	if err == nil && snapshot != "" {
		_, err = conn.Exec(ctx, "SET TRANSACTION SNAPSHOT "+quote(snapshot))
	}
	if err != nil {
		return fmt.Errorf("begin to read the rows of the snapshot: %w", err)
	}
	return nil
}

// mayRead refuses tables that the role may not read, before a slot is made for them.
func (cfg Config) mayRead(ctx context.Context, conn *pgx.Conn) error {
	for _, name := range cfg.Tables {
		var may, policies, standby bool
		const query = "SELECT has_table_privilege($1, 'SELECT'), row_security_active($1), pg_is_in_recovery()"
		if err := conn.QueryRow(ctx, query, name.Sanitize()).Scan(&may, &policies, &standby); err != nil {
			return readError(name, err)
		}
		if !may {
			return cdc.Refuse(fmt.Sprintf("GRANT SELECT ON %s TO walpost's role, and USAGE on its schema", name.Sanitize()), "table %s may not be read, which a snapshot needs", name.Sanitize())
		}
		if policies {
			return cdc.Refuse("ALTER ROLE walpost's BYPASSRLS, or let a role without policies run walpost", "row-level security of table %s would hide rows from the snapshot", name.Sanitize())
		}
		if standby {
			return errors.New("connected to a standby")
		}
		if cfg.OrderBy != "" {
			if err := checkOrder(ctx, conn, name, cfg.OrderBy); err != nil {
				return err
			}
		}
	}
	return nil
}

// parts are the table or its partitions, in the order of their names, which is that of their times
// where these are in them; or one part for all in the order of a column.
func (cfg Config) parts(ctx context.Context, conn *pgx.Conn, name pgx.Identifier, l *locks) ([]part, error) {
	if err := l.lock(ctx, conn, name.Sanitize()); err != nil {
		return nil, readError(name, err)
	}
	rows, err := conn.Query(ctx, leafQuery, cfg.Publication, name.Sanitize())
	if err != nil {
		return nil, readError(name, err)
	}
	var via []int64
	parts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (part, error) {
		p := part{Table: name, Name: make(pgx.Identifier, 2)}
		var oid, file, filtered int64
		err := row.Scan(&p.Name[0], &p.Name[1], &oid, &file, &p.Blocks, &p.Constraint, &filtered)
		p.OID, p.File = uint32(oid), uint32(file)
		via = append(via, filtered)
		p.Each = max(chunkBlocks, p.Blocks/maxChunks+1)
		return p, err
	})
	if err != nil {
		return nil, readError(name, err)
	}
	for i, oid := range via {
		if oid == 0 {
			continue
		}
		const query = "SELECT pg_get_expr(r.prqual, r.prrelid) FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = $1 AND r.prrelid = $2::bigint::oid"
		if err := conn.QueryRow(ctx, query, cfg.Publication, oid).Scan(&parts[i].Filter); err != nil {
			return nil, readError(name, err)
		}
	}
	if cfg.OrderBy == "" {
		return parts, nil
	}
	p := part{Table: name, Name: name, OrderBy: cfg.OrderBy}
	for _, leaf := range parts {
		p.Files = append(p.Files, leaf.File)
		if p.Filter = leaf.Filter; p.Filter != parts[0].Filter {
			return nil, cdc.Refuse("leave outbox.order_by out", "the partitions of table %s have different row filters", name.Sanitize())
		}
	}
	err = p.bound(ctx, conn)
	return []part{p}, err
}

// leafQuery returns a table or its partitions, each with the table whose row filter it is
// published with (15 and later), or zero.
const leafQuery = `
	WITH RECURSIVE target AS (SELECT oid, relkind FROM pg_class WHERE oid = $2::regclass),` + pgsource.Tree + `,
	leaf AS (
		SELECT c.oid, c.relname, c.relispartition, n.nspname FROM tree JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'r'),` + pgsource.Published + `
	SELECT nspname::text, relname::text, oid::bigint, coalesce(pg_relation_filenode(oid), 0)::bigint,
		pg_relation_size(oid) / current_setting('block_size')::bigint,
		CASE WHEN relispartition THEN coalesce(pg_get_partition_constraintdef(oid), 'true') ELSE '' END,
		coalesce((SELECT via::bigint FROM published WHERE published.oid = leaf.oid AND filter IS NOT NULL), 0)
	FROM leaf ORDER BY relname, oid`

// checkOrder refuses a column that the rows cannot be read in the order of.
func checkOrder(ctx context.Context, conn *pgx.Conn, name pgx.Identifier, orderBy string) error {
	const indexed = `SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = $1::regclass AND attname = $2 AND NOT attisdropped),
		EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
			WHERE i.indrelid = $1::regclass AND a.attname = $2 AND i.indisvalid AND i.indpred IS NULL)`
	var column, index bool
	if err := conn.QueryRow(ctx, indexed, name.Sanitize(), orderBy).Scan(&column, &index); err != nil {
		return readError(name, err)
	}
	switch {
	case !column:
		return cdc.Refuse("set outbox.order_by to one that it has, or to nothing", "table %s has no column %q", name.Sanitize(), orderBy)
	case !index:
		return cdc.Refuse(fmt.Sprintf("CREATE INDEX CONCURRENTLY ON %s (%s), or leave outbox.order_by out", name.Sanitize(), pgx.Identifier{orderBy}.Sanitize()),
			"no index of table %s begins with column %q: each chunk of the snapshot would read the whole table", name.Sanitize(), orderBy)
	}
	return nil
}

// bound reads the bounds of a part that is ordered.
func (p *part) bound(ctx context.Context, conn *pgx.Conn) error {
	order := pgx.Identifier{p.OrderBy}.Sanitize()
	query := fmt.Sprintf("SELECT DISTINCT bound::text AS text, bound FROM (SELECT %s AS bound, row_number() OVER (ORDER BY %[1]s) AS n FROM %s WHERE %[1]s IS NOT NULL) r WHERE n %% %[3]d = 0 ORDER BY bound",
		order, p.Name.Sanitize(), chunkRows)
	err := table.Read(ctx, conn.PgConn(), query, func(values [][]byte) error {
		p.Bounds = append(p.Bounds, string(values[0]))
		return nil
	})
	if err != nil {
		return readError(p.Name, err)
	}
	return nil
}

// readError adds the way out to an error of reading a table.
func readError(name pgx.Identifier, err error) error {
	switch {
	case hasCode(err, "42501"): // insufficient_privilege
		return cdc.Refuse(fmt.Sprintf("GRANT SELECT ON %s to walpost's role, and USAGE on its schema", name.Sanitize()), "read table %s: %w", name.Sanitize(), err)
	case hasCode(err, "42P01"): // undefined_table
		return cdc.Refuse(anew, "table %s is gone before its rows were published: %w", name.Sanitize(), err)
	}
	return fmt.Errorf("read table %s: %w", name.Sanitize(), err)
}

// anew is what to do where a snapshot cannot go on.
const anew = "find out what of it the consumers have. To start anew, drop the slot and delete its checkpoint; to stream without these rows, delete the checkpoint and the row in walpost.snapshot, and set snapshot to none (docs/operations.md says how)"

func hasCode(err error, codes ...string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && slices.Contains(codes, pgErr.Code)
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
