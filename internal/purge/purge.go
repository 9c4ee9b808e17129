// Package purge deletes rows from outbox tables that are published and old, or drops whole
// partitions of them: never a row that a slot or a bookmark has not left behind. Which rows
// that are it knows from the checkpoint log, not from a column.
package purge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/history"
	"github.com/walpost/walpost/internal/partition"
	"github.com/walpost/walpost/internal/snapshot"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// Config says what to delete.
type Config struct {
	Slots  []Slot           // the live ones that read the tables; at least one
	Tables []pgx.Identifier // with their partitions, which are dropped where walpost makes them

	// OlderThan is how long ago a row must have been committed.
	OlderThan time.Duration

	// Dry counts, and deletes nothing.
	Dry bool

	// ArchiveDir is a folder for what is deleted, as files of JSON lines, or of Parquet.
	// Empty: nothing is archived.
	ArchiveDir string

	// Bucket is where the files are moved to when a run ends, s3://bucket/prefix, or empty.
	// ArchiveDir holds them until then, and what could not be moved.
	Bucket  string
	Parquet bool

	// Pause is the time between two batches, as a multiple of what a batch has taken.
	Pause float64

	batchTimeout time.Duration // zero is batchTimeout
}

// Slot is a slot and the publication that it is read with.
type Slot struct{ Name, Publication string }

// Result is what was deleted, or would be.
type Result struct {
	Before   time.Time     `json:"before"`  // rows committed before it
	LSN      cdc.LSN       `json:"lsn"`     // which lies before this position
	HeldBy   string        `json:"held_by"` // what kept it from going as far as was asked; empty: nothing
	Tables   []TableResult `json:"tables"`
	Deleted  int64         `json:"deleted"` // those of dropped partitions among them
	Dropped  int           `json:"dropped_partitions"`
	Archived int64         `json:"archived"`
	Dry      bool          `json:"dry_run"`
}

// TableResult is what became of a table or a partition.
type TableResult struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
	Kept  int64  `json:"kept"` // in a dry run, and of a partition that was left

	// Partition says that it goes as a whole: it was dropped, or would be in a dry run,
	// unless Left says why not.
	Partition bool   `json:"partition,omitempty"`
	Left      string `json:"left,omitempty"`
}

const (
	// batchBlocks is how many blocks of the table a batch looks at: some thousand rows.
	batchBlocks = 64

	// batchTimeout bounds a batch, which waits for who has a row of it locked.
	batchTimeout = time.Minute

	// waitLimit is how long the slots are waited for where rows of just now are meant.
	waitLimit    = 10 * time.Second
	waitInterval = 500 * time.Millisecond

	// maxAge is how many transactions ago a position may be: beyond 2^31 their numbers
	// mean others.
	maxAge = 1 << 30
)

// Run deletes, in batches that each are a transaction, until all is done or ctx is.
func Run(ctx context.Context, conn *pgx.Conn, cfg Config) (Result, error) {
	r := Result{Dry: cfg.Dry, Tables: []TableResult{}}
	for _, slot := range cfg.Slots {
		if err := snapshot.CheckFinished(ctx, conn, slot.Name); err != nil {
			return r, err
		}
	}
	bound := bound{want: time.Now().Add(-cfg.OlderThan)}
	var err error
	if bound.Entry, bound.held, err = cfg.bound(ctx, conn, bound.want); err != nil {
		return r, err
	}
	r.Before, r.LSN, r.HeldBy = bound.At, bound.End, bound.held
	archive, err := newArchive(ctx, cfg)
	if err != nil {
		return r, err
	}
	for _, t := range cfg.Tables {
		tables, err := cfg.purge(ctx, conn, t, bound, archive)
		r.add(tables)
		if err != nil {
			return r, errors.Join(err, archive.close(ctx))
		}
	}
	r.Archived = archive.rows
	return r, archive.close(ctx)
}

func (r *Result) add(tables []TableResult) {
	r.Tables = append(r.Tables, tables...)
	for _, t := range tables {
		if t.Left == "" {
			r.Deleted += t.Rows
		}
		if t.Partition && t.Left == "" && !r.Dry {
			r.Dropped++
		}
	}
}

// purge drops partitions of a table whose partitions are walpost's affair, and else deletes
// rows.
func (cfg Config) purge(ctx context.Context, conn *pgx.Conn, name pgx.Identifier, b bound, a *archive) (all []TableResult, err error) {
	partitioned, err := partition.Find(ctx, conn, name)
	if err != nil {
		return nil, err
	}
	if partitioned != nil {
		return cfg.partitions(ctx, conn, partitioned, b, a)
	}
	tables, err := leaves(ctx, conn, name)
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		r, err := cfg.table(ctx, conn, t, b.Entry, a)
		all = append(all, r)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// ErrYoung says that nothing is known yet of a moment that is so long ago.
var ErrYoung = errors.New("the checkpoint log does not go back")

// bound is the moment before which rows must have been committed.
type bound struct {
	history.Entry
	want time.Time // what was asked for
	held string    // what keeps the moment before that; empty: nothing
}

// bound returns the moment, and what keeps it before what was asked for.
func (cfg Config) bound(ctx context.Context, conn *pgx.Conn, want time.Time) (history.Entry, string, error) {
	if cfg.OlderThan <= 0 {
		return cfg.boundNow(ctx, conn)
	}
	least, err := cfg.limit(ctx, conn)
	if err != nil {
		return history.Entry{}, "", err
	}
	e, err := history.Before(ctx, conn, cfg.Slots[0].Name, least.lsn, want)
	if err != nil {
		return history.Entry{}, "", err
	}
	asked, err := history.At(ctx, conn, cfg.Slots[0].Name, want)
	switch {
	case err != nil:
		return history.Entry{}, "", err
	case asked == nil:
		return history.Entry{}, "", cdc.Refuse("wait: walpost run keeps the log, and rows can be told from when it began. --older-than 0 takes all that is published by now",
			"slot %q: %w to %s, so that nothing tells which rows were committed before", cfg.Slots[0].Name, ErrYoung, want.UTC().Format(time.RFC3339))
	case e == nil:
		return history.Entry{}, "", least.refuse()
	}
	if err := checkAge(ctx, conn, *e); err != nil {
		return history.Entry{}, "", err
	}
	if e.End < asked.End {
		return *e, least.String(), nil
	}
	return *e, "", nil
}

// boundNow notes this moment, and waits until the slots have left it behind.
func (cfg Config) boundNow(ctx context.Context, conn *pgx.Conn) (history.Entry, string, error) {
	slot, err := pgsource.ReadSlot(ctx, conn, cfg.Slots[0].Name)
	if err == nil && slot == nil {
		err = pgsource.NoSlot(ctx, conn, cfg.Slots[0].Name, cdc.Refuse("run walpost init, or set postgres.slot: nothing tells what is published", "slot %q does not exist", cfg.Slots[0].Name))
	}
	if err != nil {
		return history.Entry{}, "", err
	}
	e, err := history.Add(ctx, conn, cfg.Slots[0].Name, slot.ConfirmedFlush)
	if err != nil {
		return history.Entry{}, "", err
	}
	for deadline := time.Now().Add(waitLimit); ; {
		least, err := cfg.limit(ctx, conn)
		done := least.lsn >= e.End
		if err == nil && !done {
			done, err = cfg.passed(ctx, conn, e.End)
		}
		switch {
		case err != nil:
			return history.Entry{}, "", err
		case done:
			return e, "", nil
		case least.lost != "", time.Now().After(deadline):
			return history.Entry{}, "", least.refuse()
		}
		select {
		case <-ctx.Done():
			return history.Entry{}, "", context.Cause(ctx)
		case <-time.After(waitInterval):
		}
	}
}

// checkAge refuses a moment so many transactions ago that their numbers mean others.
func checkAge(ctx context.Context, conn *pgx.Conn, e history.Entry) error {
	var age int64
	const query = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint - $1::bigint"
	if err := conn.QueryRow(ctx, query, int64(e.OldestXID)).Scan(&age); err != nil {
		return fmt.Errorf("read the current transaction: %w", err)
	}
	if age < 0 || age > maxAge {
		return cdc.Refuse("give a shorter --older-than, or let the slot or the bookmark that holds it back go on",
			"%s was %d transactions ago, too many to tell rows by", e.At.UTC().Format(time.RFC3339), age)
	}
	return nil
}

// leaves returns the table itself, or the partitions of one that has some.
func leaves(ctx context.Context, conn *pgx.Conn, t pgx.Identifier) ([]pgx.Identifier, error) {
	const query = `WITH RECURSIVE target AS (SELECT oid, relkind FROM pg_class WHERE oid = $1::regclass),` + pgsource.Tree + `
		SELECT n.nspname, c.relname FROM tree JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'`
	rows, err := conn.Query(ctx, query, t.Sanitize())
	if err != nil {
		return nil, fmt.Errorf("look up table %s: %w", t.Sanitize(), err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (pgx.Identifier, error) {
		name := make(pgx.Identifier, 2)
		err := row.Scan(&name[0], &name[1])
		return name, err
	})
	if err != nil {
		return nil, fmt.Errorf("look up table %s: %w", t.Sanitize(), err)
	}
	return found, nil
}

// committed is the condition for rows that were committed before the moment whose oldest
// transaction is the parameter. Frozen rows are old, whatever their number.
const committed = "age(xmin) > age($1::text::xid)"

func oldest(e history.Entry) string { return fmt.Sprint(uint32(e.OldestXID)) }

// table deletes from one table, from its beginning to its end.
func (cfg Config) table(ctx context.Context, conn *pgx.Conn, t pgx.Identifier, e history.Entry, a *archive) (TableResult, error) {
	r := TableResult{Table: t.Sanitize()}
	xid := oldest(e)
	if cfg.Dry {
		query := fmt.Sprintf("SELECT count(*) FILTER (WHERE %s), count(*) FILTER (WHERE NOT %[1]s) FROM ONLY %s", committed, r.Table)
		if err := conn.QueryRow(ctx, query, xid).Scan(&r.Rows, &r.Kept); err != nil {
			return r, tableError(t, err)
		}
		return r, nil
	}
	if err := a.open(ctx, conn, t); err != nil {
		return r, err
	}
	var blocks int64
	const size = "SELECT pg_relation_size($1::regclass) / current_setting('block_size')::bigint"
	if err := conn.QueryRow(ctx, size, r.Table).Scan(&blocks); err != nil {
		return r, tableError(t, err)
	}
	for first := int64(0); first < blocks; first += batchBlocks {
		begun := time.Now()
		n, err := cfg.batch(ctx, conn, t, xid, first, a)
		r.Rows += n
		if err != nil {
			return r, tableError(t, err)
		}
		if cfg.Pause == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return r, context.Cause(ctx)
		case <-time.After(time.Duration(cfg.Pause * float64(time.Since(begun)))):
		}
	}
	return r, nil
}

// batch deletes from some blocks. What is archived is on disk before the deletion is
// committed: after a crash in between it is archived twice, and never lost.
func (cfg Config) batch(ctx context.Context, conn *pgx.Conn, t pgx.Identifier, xid string, first int64, a *archive) (n int64, err error) {
	const late = "%d blocks were not through in %s: another session may have a row, or the table, locked"
	limit := cmp.Or(cfg.batchTimeout, batchTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf(late, batchBlocks, limit))
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	query := fmt.Sprintf("DELETE FROM ONLY %s WHERE ctid >= '(%d,0)'::tid AND ctid < '(%d,0)'::tid AND %s", t.Sanitize(), first, first+batchBlocks, committed)
	if cfg.ArchiveDir == "" {
		tag, err := conn.Exec(ctx, query, xid)
		return tag.RowsAffected(), err
	}
	name := t[1]
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, query+" RETURNING to_jsonb("+pgx.Identifier{name}.Sanitize()+".*)::text", xid)
		if err != nil {
			return err
		}
		n, err = a.write(t, rows)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

func tableError(t pgx.Identifier, err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" { // insufficient_privilege
		return cdc.Refuse(fmt.Sprintf("GRANT SELECT, DELETE ON %s TO the role", t.Sanitize()), "purge table %s: %w", t.Sanitize(), err)
	}
	return fmt.Errorf("purge table %s: %w", t.Sanitize(), err)
}
