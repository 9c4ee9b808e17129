package purge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/partition"
	"github.com/walpost/walpost/pkg/cdc"
)

const (
	// detachTries is how often a partition is tried to be detached, and detachWait the first
	// wait between two, which doubles. Then it is left for the next purge.
	detachTries = 5
	detachWait  = 100 * time.Millisecond
)

// partitions drops those partitions whose time and rows lie before the bound, and leaves the
// others as they are.
func (cfg Config) partitions(ctx context.Context, conn *pgx.Conn, t *partition.Table, b bound, a *archive) ([]TableResult, error) {
	found, err := t.List(ctx, conn)
	if err != nil {
		return nil, err
	}
	var (
		all  []TableResult
		busy bool // what is in the way of one is in the way of the others
	)
	for _, p := range found {
		r := TableResult{Table: p.Name.Sanitize(), Partition: true}
		if p.State == partition.Attached && !over(p, b.At) {
			if b.held != "" && over(p, b.want) {
				r.Left = b.held
				all = append(all, r)
			}
			continue
		}
		if busy && p.State != partition.Detached {
			r.Left = "another is in use by other sessions"
		} else {
			err = cfg.partition(ctx, conn, t, p, b, a, &r)
		}
		if errors.Is(err, partition.ErrInUse) {
			busy, r.Left, err = true, cdc.OneLine(err), nil
		}
		all = append(all, r)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// over reports whether the time of a partition had ended at a moment.
func over(p partition.Partition, at time.Time) bool { return p.Upper != nil && !p.Upper.After(at) }

// partition drops one, in this order: looked at, detached, looked at again, archived,
// dropped. Rows may come while it is looked at, and none once it is detached: all
// transactions that have written to it have ended then. If some have come it stays detached
// until they are old and published too. WAL has them whatever becomes of the table.
func (cfg Config) partition(ctx context.Context, conn *pgx.Conn, t *partition.Table, p partition.Partition, b bound, a *archive, r *TableResult) error {
	if p.State == partition.Attached {
		if whole, err := cfg.whole(ctx, conn, t, p, b, r); err != nil || !whole {
			return err
		}
	}
	if cfg.Dry && p.State == partition.Pending {
		r.Left = "its DETACH CONCURRENTLY was begun, and broken off"
	}
	if cfg.Dry && p.State != partition.Detached {
		return nil
	}
	p, err := detach(ctx, conn, t, p)
	if err != nil {
		return notDropped(r, err)
	}
	if whole, err := cfg.whole(ctx, conn, t, p, b, r); err != nil || !whole || cfg.Dry {
		return err
	}
	if cfg.ArchiveDir != "" {
		if err := archiveAll(ctx, conn, p.Name, a); err != nil {
			return notDropped(r, tableError(p.Name, err))
		}
	}
	return notDropped(r, t.Drop(ctx, conn, p))
}

// notDropped keeps rows from being counted as deleted if there is an error.
func notDropped(r *TableResult, err error) error {
	if err != nil {
		r.Left = cdc.OneLine(err)
	}
	return err
}

// whole counts the rows, and reports whether all lie before the bound. Those of a partition
// are read through its table, which is what the role may read.
func (cfg Config) whole(ctx context.Context, conn *pgx.Conn, t *partition.Table, p partition.Partition, b bound, r *TableResult) (bool, error) {
	query := fmt.Sprintf("SELECT count(*) FILTER (WHERE %s), count(*) FILTER (WHERE NOT %[1]s) FROM ", committed)
	args := []any{oldest(b.Entry)}
	if p.State == partition.Attached {
		key := pgx.Identifier{t.Key}.Sanitize()
		query += fmt.Sprintf("%s WHERE %s >= coalesce($2::timestamptz, '-infinity') AND %[2]s < $3::timestamptz", t.Name.Sanitize(), key)
		args = append(args, p.Lower, p.Upper)
	} else {
		query += "ONLY " + p.Name.Sanitize()
	}
	if err := conn.QueryRow(ctx, query, args...).Scan(&r.Rows, &r.Kept); err != nil {
		return false, notDropped(r, cannotRead(t, err))
	}
	if r.Kept > 0 {
		r.Left = fmt.Sprintf("%d rows are of transactions that had not ended by %s", r.Kept, b.At.UTC().Format(time.RFC3339))
	}
	return r.Kept == 0, nil
}

// detach tries some times.
func detach(ctx context.Context, conn *pgx.Conn, t *partition.Table, p partition.Partition) (partition.Partition, error) {
	wait := detachWait
	for try := 1; p.State != partition.Detached; try++ {
		err := t.Detach(ctx, conn, p)
		switch {
		case err == nil:
			p.State = partition.Detached
			return p, nil
		case !errors.Is(err, partition.ErrInUse) || try == detachTries:
			return p, err
		}
		select {
		case <-ctx.Done():
			return p, context.Cause(ctx)
		case <-time.After(wait):
		}
		wait *= 2
		if p, err = t.Again(ctx, conn, p); err != nil {
			return p, err
		}
	}
	return p, nil
}

// archiveAll writes all rows of what is detached.
func archiveAll(ctx context.Context, conn *pgx.Conn, name pgx.Identifier, a *archive) error {
	if err := a.open(ctx, conn, name); err != nil {
		return err
	}
	rows, err := conn.Query(ctx, "SELECT to_jsonb(p.*)::text FROM ONLY "+name.Sanitize()+" p")
	if err != nil {
		return err
	}
	_, err = a.write(name, rows)
	return err
}

func cannotRead(t *partition.Table, err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" { // insufficient_privilege
		return cdc.Refuse(fmt.Sprintf("GRANT SELECT ON %s TO the role", t.Name.Sanitize()), "purge table %s: %w", t.Name.Sanitize(), err)
	}
	return fmt.Errorf("purge table %s: %w", t.Name.Sanitize(), err)
}
