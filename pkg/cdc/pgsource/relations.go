package pgsource

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/pkg/cdc"
)

// relation is a table of the publication.
type relation struct {
	*cdc.Relation
	outbox bool   // its inserts are events
	was    string // the name under which it was an outbox, if it is none any more
}

// upsert takes a table's description, which comes again after any invalidation.
// One that says nothing new keeps its pointer, and what hangs on it; but a table
// that is none of ours may have become a partition of the outbox.
func (st *Stream) upsert(ctx context.Context, rel *cdc.Relation) error {
	if err := st.describe(ctx, rel); err != nil {
		return err
	}
	if old, ok := st.in.relations[rel.OID]; ok && reflect.DeepEqual(old.Relation, rel) {
		if old.outbox {
			return nil
		}
		rel = old.Relation
	}
	outbox, err := st.isOutbox(ctx, rel)
	if err != nil {
		return err
	}
	if outbox && st.binary {
		for _, c := range rel.Columns {
			if !st.cfg.Binary(c.Type) {
				st.src.textOnly = true
				return fmt.Errorf("column %q of %s.%s has a type that is read as text: opening the stream again in text format", c.Name, rel.Schema, rel.Name)
			}
		}
	}
	was := ""
	if old := st.in.relations[rel.OID]; old != nil && !outbox {
		if was = old.was; old.outbox && st.isConfigured(old.Relation) {
			was = Table{old.Schema, old.Name}.String()
		}
	}
	st.in.relations[rel.OID] = &relation{Relation: rel, outbox: outbox, was: was}
	return nil
}

// refuseRenamed is what becomes of a row of an outbox under a name that is not configured. What
// else is done with such a table is nobody's loss.
func refuseRenamed(rel *relation) error {
	now := Table{rel.Schema, rel.Name}
	return cdc.Refuse(fmt.Sprintf("name %s in outbox.table, which may be a list, and start walpost again: it goes on with this row", now),
		"outbox table %s was renamed to %s, and has a row under that name", rel.was, now)
}

// describe asks the catalog for what the protocol does not tell of columns, as it is now. Of
// a table that was dropped since it is not known.
func (st *Stream) describe(ctx context.Context, rel *cdc.Relation) error {
	if !st.cfg.Describe {
		return nil
	}
	type column struct {
		Name    string
		NotNull bool
		Labels  []string
	}
	var columns []column
	err := st.onCatalog(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `SELECT attname::text, attnotnull, (SELECT array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = atttypid)
			FROM pg_attribute WHERE attrelid = $1::bigint::oid AND attnum > 0 AND NOT attisdropped`, int64(rel.OID))
		if err == nil {
			columns, err = pgx.CollectRows(rows, pgx.RowToStructByPos[column])
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("look up columns of relation %d: %w", rel.OID, err)
	}
	for _, c := range columns {
		if i := slices.IndexFunc(rel.Columns, func(have cdc.Column) bool { return have.Name == c.Name }); i >= 0 {
			rel.Columns[i].NotNull, rel.Columns[i].Labels = c.NotNull, c.Labels
		}
	}
	return nil
}

func (st *Stream) isConfigured(rel *cdc.Relation) bool {
	for _, t := range st.cfg.Tables {
		if t.Schema == rel.Schema && t.Name == rel.Name {
			return true
		}
	}
	return false
}

// isOutbox reports whether rel is one of the configured tables or a partition of
// one, as the catalog has it after the transaction that is being read. What has
// gone since, for it was dropped or taken out of the publication, is judged by its
// columns. It may be a copy of the outbox only where the publication has tables that nobody
// has listed, and is taken for one where no outbox table has partitions and it was not the outbox.
func (st *Stream) isOutbox(ctx context.Context, rel *cdc.Relation) (bool, error) {
	if st.isConfigured(rel) {
		return true, nil
	}
	if err := st.awaitVisible(ctx, st.in.event.Transaction.XID); err != nil {
		return false, err
	}
	found, err := st.lookUp(ctx, rel.OID)
	if found.partitioned {
		st.src.partitioned.Store(true)
	}
	if err != nil || found.partition || !st.hasColumns(rel) {
		return found.partition, err
	}
	old := st.in.relations[rel.OID]
	switch {
	case found.published:
		st.warnOnce(rel, "rows of a published table that has the outbox's columns, but is not in outbox.table nor a partition of it now, are not published")
		return false, nil
	case found.unlisted && !st.src.partitioned.Load() && (old == nil || !old.outbox):
		st.warnOnce(rel, "rows of a table that has the outbox's columns, and was dropped or has left the publication since, are not published: the publication has all tables, and no outbox table has partitions, of which it could be one")
		return false, nil
	}
	st.warnOnce(rel, "rows of a table that has left the publication since: taken for a partition of the outbox")
	return true, nil
}

// warnOnce logs a text once for a table, over all streams of the source.
func (st *Stream) warnOnce(rel *cdc.Relation, text string) {
	w := warning{rel.OID, text}
	if !st.src.warned[w] {
		st.src.warned[w] = true
		st.cfg.Logger.Warn(text, "table", pgx.Identifier{rel.Schema, rel.Name}.Sanitize())
	}
}

// warning is what was said of a table.
type warning struct {
	oid  uint32
	text string
}

// hasColumns reports whether rel has the columns of an outbox, which every
// partition of one has.
func (st *Stream) hasColumns(rel *cdc.Relation) bool {
	names := map[string]bool{}
	for _, c := range rel.Columns {
		names[c.Name] = true
	}
	for _, want := range st.cfg.Columns {
		if !names[want] {
			return false
		}
	}
	return true
}

// catalogEntry is what the catalog says of a table at this moment.
type catalogEntry struct {
	partition bool // of an outbox table, over any number of levels, or such a table itself, perhaps under a new name
	published bool

	partitioned bool // an outbox table has partitions
	unlisted    bool // the publication has all tables, or those of a schema: a copy of the outbox too
}

// visibleInterval is the time between two looks at a transaction that others
// cannot see yet.
const visibleInterval = 20 * time.Millisecond

// awaitVisible waits until what a committed transaction has changed can be seen.
// Its commit record is sent when it is in WAL, and the transaction ends only after
// that: with a synchronous standby, after any time. Until then it holds the lock
// on its own number.
func (st *Stream) awaitVisible(ctx context.Context, xid uint32) error {
	const query = `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND transactionid = $1::text::xid AND granted)`
	ticker := time.NewTicker(visibleInterval)
	defer ticker.Stop()
	for {
		running := false
		err := st.onCatalog(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, query, fmt.Sprint(xid)).Scan(&running)
		})
		if err != nil || !running {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// lookUp asks the catalog about a table.
func (st *Stream) lookUp(ctx context.Context, oid uint32) (e catalogEntry, err error) {
	const query = `
		WITH RECURSIVE leaf AS (SELECT $2::bigint::oid AS oid),` + Published + `,
		configured AS (
			SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest($3::text[], $4::text[])))
		SELECT EXISTS (SELECT FROM line JOIN configured USING (oid)), EXISTS (SELECT FROM published), EXISTS (SELECT FROM configured WHERE relkind = 'p'),
			EXISTS (SELECT FROM pub WHERE puballtables) OR EXISTS (SELECT FROM pubschema)`
	var schemas, names []string
	for _, t := range st.cfg.Tables {
		schemas, names = append(schemas, t.Schema), append(names, t.Name)
	}
	err = st.onCatalog(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, query, st.cfg.Publication, int64(oid), schemas, names).Scan(&e.partition, &e.published, &e.partitioned, &e.unlisted)
	})
	if err != nil {
		err = fmt.Errorf("look up relation %d: %w", oid, err)
	}
	return e, err
}

// onCatalog calls f with the session for questions to the catalog: the one that
// owns the slot is watched. One that was kept may have ended meanwhile, so it is
// tried once more with a new one.
func (st *Stream) onCatalog(ctx context.Context, f func(*pgx.Conn) error) error {
	for {
		kept := st.in.catalog != nil
		if !kept {
			conn, err := st.src.connectControl(ctx)
			if err != nil {
				return err
			}
			st.in.catalog = conn
		}
		err := f(st.in.catalog)
		if err == nil {
			return nil
		}
		st.in.closeCatalog()
		if !kept || ctx.Err() != nil {
			return err
		}
	}
}

func (in *reader) closeCatalog() {
	if in.catalog != nil {
		closeConn(in.catalog.PgConn())
		in.catalog = nil
	}
}
