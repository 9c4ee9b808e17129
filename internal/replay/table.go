package replay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/history"
	"github.com/walpost/walpost/internal/snapshot"
	"github.com/walpost/walpost/internal/table"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// Table is a table whose rows are published again, where WAL no longer has them.
type Table struct {
	Name pgx.Identifier

	// OrderBy is the column that tells when a row was written, nearly in commit order: a row
	// of a long transaction has an earlier time than one that was committed before it.
	OrderBy string
}

// ResolveTable makes a plan for rows of a table. A point is a time, or how long ago it was; an
// empty one is no bound.
func ResolveTable(live, from, to string, opts Options) (Plan, error) {
	p := Plan{ID: newID(), Slot: live, Options: opts}
	var errs []error
	for _, c := range []struct {
		flag, text string
		at         *time.Time
	}{{"--from", from, &p.Since}, {"--to", to, &p.Until}} {
		if c.text == "" {
			continue
		}
		pt, err := parsePoint(c.text, nil)
		if err != nil || pt.time.IsZero() {
			errs = append(errs, cdc.Refuse("give a time as in 2026-01-31T14:00:00Z, or a time ago as in -90m: rows have no position", "%s %q is no time", c.flag, c.text))
		}
		*c.at = pt.time
	}
	if len(errs) == 0 && !p.Until.IsZero() && p.Until.Before(p.Since) {
		errs = append(errs, errors.New("--to is before --from: no row lies between"))
	}
	return p, errors.Join(errs...)
}

// Published returns a moment before which a slot has published all rows for certain.
func Published(ctx context.Context, conn *pgx.Conn, live string) (*history.Entry, error) {
	if err := snapshot.CheckFinished(ctx, conn, live); err != nil {
		return nil, err
	}
	slot, err := pgsource.ReadSlot(ctx, conn, live)
	switch {
	case err != nil:
		return nil, err
	case slot == nil:
		return nil, pgsource.NoSlot(ctx, conn, live, cdc.Refuse("set postgres.slot: nothing tells which rows are published", "slot %q does not exist", live))
	}
	e, err := history.Before(ctx, conn, live, slot.ConfirmedFlush, time.Now().Add(time.Hour))
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, cdc.Refuse("wait some seconds: walpost run keeps the log", "the checkpoint log of slot %q does not tell yet which rows are published", live)
	}
	return e, nil
}

// Read calls do with each row from before e, which [Published] has returned, ordered by the
// table's column. An event and what it holds are valid only during the call. The session is of
// no use for anything else afterwards. The query holds vacuum back for as long as it lasts.
func (t Table) Read(ctx context.Context, conn *pgx.Conn, publication string, plan Plan, e *history.Entry, do func(*cdc.Event) error) error {
	if err := checkFilter(ctx, conn, publication); err != nil {
		return err
	}
	rel, err := t.describe(ctx, conn, publication)
	if err != nil {
		return err
	}
	if err := table.Prepare(ctx, conn); err != nil {
		return err
	}
	return t.rows(ctx, conn, t.query(rel, plan, e), rel, do)
}

// checkFilter refuses a publication with a row filter (15 and later): rows that it leaves out
// would be published for the first time.
func checkFilter(ctx context.Context, conn *pgx.Conn, publication string) error {
	var filtered bool
	const query = `WITH RECURSIVE leaf AS (SELECT DISTINCT prrelid AS oid FROM pg_publication_rel),` + pgsource.Published + `
		SELECT EXISTS (SELECT FROM published WHERE filter IS NOT NULL)`
	if err := conn.QueryRow(ctx, query, publication).Scan(&filtered); err != nil {
		return fmt.Errorf("read publication %q: %w", publication, err)
	}
	if filtered {
		return cdc.Refuse("replay from WAL with --from", "publication %q has a row filter, which a read of the table does not go by", publication)
	}
	return nil
}

// query selects all columns as text, and the time as microseconds.
func (t Table) query(rel *cdc.Relation, plan Plan, e *history.Entry) string {
	order := pgx.Identifier{t.OrderBy}.Sanitize()
	where := []string{fmt.Sprintf("age(xmin) > age('%d'::xid)", uint32(e.OldestXID))}
	if !plan.Since.IsZero() {
		where = append(where, fmt.Sprintf("%s >= '%s'", order, plan.Since.UTC().Format(time.RFC3339Nano)))
	}
	if !plan.Until.IsZero() {
		where = append(where, fmt.Sprintf("%s < '%s'", order, plan.Until.UTC().Format(time.RFC3339Nano)))
	}
	return fmt.Sprintf("SELECT %s, (extract(epoch FROM %s) * 1000000)::bigint FROM %s WHERE %s ORDER BY %[2]s",
		table.Columns(rel), order, t.Name.Sanitize(), strings.Join(where, " AND "))
}

// rows takes rows as they come.
func (t Table) rows(ctx context.Context, conn *pgx.Conn, query string, rel *cdc.Relation, do func(*cdc.Event) error) error {
	ev := &cdc.Event{Relation: rel, Values: make([]cdc.Value, len(rel.Columns))}
	err := table.Read(ctx, conn.PgConn(), query, func(values [][]byte) error {
		last := len(ev.Values)
		micros, err := strconv.ParseInt(string(values[last]), 10, 64)
		if err != nil {
			return fmt.Errorf("column %q is NULL or no time: %w", t.OrderBy, err)
		}
		ev.Transaction.CommitTime = time.UnixMicro(micros)
		ev.Ordinal++
		table.Set(ev, values[:last])
		return do(ev)
	})
	var pgErr *pgconn.PgError
	switch name := t.Name.Sanitize(); {
	case errors.As(err, &pgErr) && pgErr.Code == "42501": // insufficient_privilege
		return cdc.Refuse(fmt.Sprintf("GRANT SELECT ON %s to walpost's role, and USAGE on its schema", name), "read table %s: %w", name, err)
	case err != nil:
		return fmt.Errorf("read table %s: %w", name, err)
	}
	return nil
}

func (t Table) describe(ctx context.Context, conn *pgx.Conn, publication string) (*cdc.Relation, error) {
	rel, err := table.Describe(ctx, conn, t.Name, "")
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(rel.Columns, func(c cdc.Column) bool { return c.Name == t.OrderBy }) {
		return nil, cdc.Refuse("name one with --order-by", "table %s has no column %q to order by", t.Name.Sanitize(), t.OrderBy)
	}
	return table.Describe(ctx, conn, t.Name, publication)
}

// Publish hands each event of a read to a sink, and waits until all are acknowledged.
func Publish(ctx context.Context, sink cdc.Sink, route *Route, read func(func(*cdc.Event) error) error) error {
	failed := make(chan error, 1)
	done := func(r *cdc.Record, err error) {
		if err != nil {
			select {
			case failed <- fmt.Errorf("row with id %s: %w", r.ID, err):
			default:
			}
		}
		r.Free()
	}
	err := read(func(ev *cdc.Event) error {
		select {
		case err := <-failed:
			return fmt.Errorf("produce: %w", err)
		default:
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		rec, err := route.Route(ev)
		if errors.Is(err, cdc.ErrSkip) {
			return nil
		}
		if err == nil {
			err = sink.Produce(ctx, rec, done)
		}
		return err
	})
	if err == nil {
		err = sink.Flush(ctx)
	}
	select {
	case ferr := <-failed:
		err = errors.Join(err, fmt.Errorf("produce: %w", ferr))
	default:
	}
	return err
}
