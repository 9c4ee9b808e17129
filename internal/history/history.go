// Package history keeps how far a slot was published over time, in the table
// walpost.checkpoint_log: it makes a moment into a position, and tells which rows
// were committed before one.
package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/pkg/cdc"
)

// Entry is what held at a moment.
type Entry struct {
	At  time.Time
	LSN cdc.LSN // everything that was committed before it was in Kafka

	// End lies behind everything that was committed up to At, and OldestXID is one of the
	// transactions' numbers, as pg_snapshot_xmin has it: all before it had ended.
	End       cdc.LSN
	OldestXID uint64
}

// ErrMissing says that the database has no such table.
var ErrMissing = errors.New("there is no table walpost.checkpoint_log")

const codeUndefinedTable = "42P01"

func explain(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == codeUndefinedTable {
		return cdc.Refuse("run walpost init", "%w", ErrMissing)
	}
	return err
}

// Add notes that a slot is published up to lsn now, and returns the entry.
func Add(ctx context.Context, conn *pgx.Conn, slot string, lsn cdc.LSN) (Entry, error) {
	// The statement's snapshot is older than the position that it reads: what had ended
	// then has its commit record before that.
	const insert = `
		INSERT INTO walpost.checkpoint_log (slot, lsn, end_lsn, oldest_xid)
		SELECT $1, $2::text::pg_lsn, pg_current_wal_insert_lsn(), pg_snapshot_xmin(pg_current_snapshot())
		RETURNING at, lsn::text, end_lsn::text, oldest_xid::text::bigint`
	e, err := scan(conn.QueryRow(ctx, insert, slot, lsn.String()))
	if err != nil {
		return Entry{}, fmt.Errorf("add to the checkpoint log of slot %q: %w", slot, explain(err))
	}
	return *e, nil
}

// Thin drops entries that lie close together, the closer the older they are: up to an hour
// all are kept, up to a day one for each minute, up to a month one for each ten minutes,
// and then one a day.
func Thin(ctx context.Context, conn *pgx.Conn, slot string) error {
	const drop = `
		DELETE FROM walpost.checkpoint_log l USING (
			SELECT at, row_number() OVER (PARTITION BY date_bin(
				CASE WHEN at > now() - interval '1 day' THEN interval '1 minute' WHEN at > now() - interval '30 days' THEN interval '10 minutes' ELSE interval '1 day' END,
				at, '2000-01-01') ORDER BY at) AS n
			FROM walpost.checkpoint_log WHERE slot = $1 AND at < now() - interval '1 hour') old
		WHERE l.slot = $1 AND l.at = old.at AND old.n > 1`
	if _, err := conn.Exec(ctx, drop, slot); err != nil {
		return fmt.Errorf("thin the checkpoint log of slot %q: %w", slot, explain(err))
	}
	return nil
}

// Keep drops all entries of a slot but the last, and dates that.
func Keep(ctx context.Context, conn *pgx.Conn, slot string, at time.Time) error {
	const last = `WITH dropped AS (
			DELETE FROM walpost.checkpoint_log WHERE slot = $1 RETURNING *)
		INSERT INTO walpost.checkpoint_log (slot, at, lsn, end_lsn, oldest_xid)
		SELECT slot, $2, lsn, end_lsn, oldest_xid FROM dropped ORDER BY lsn DESC, at DESC LIMIT 1`
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, last, slot, at)
		return err
	})
	if err != nil {
		return fmt.Errorf("date the checkpoint log of slot %q: %w", slot, explain(err))
	}
	return nil
}

// Forget drops all entries of a slot.
func Forget(ctx context.Context, conn *pgx.Conn, slot string) error {
	if _, err := conn.Exec(ctx, "DELETE FROM walpost.checkpoint_log WHERE slot = $1", slot); err != nil {
		return fmt.Errorf("drop the checkpoint log of slot %q: %w", slot, explain(err))
	}
	return nil
}

const entry = "SELECT at, lsn::text, end_lsn::text, oldest_xid::text::bigint FROM walpost.checkpoint_log WHERE slot = $1"

// At returns the last entry that is no later than t, or nil.
func At(ctx context.Context, conn *pgx.Conn, slot string, t time.Time) (*Entry, error) {
	return find(ctx, conn, entry+" AND at <= $2 ORDER BY at DESC LIMIT 1", slot, t)
}

// After returns the first entry that is no earlier than t, or nil.
func After(ctx context.Context, conn *pgx.Conn, slot string, t time.Time) (*Entry, error) {
	return find(ctx, conn, entry+" AND at >= $2 ORDER BY at LIMIT 1", slot, t)
}

// Before returns the last entry no later than t whose End is no further than lsn, or nil:
// what had been committed at that moment lies before lsn.
func Before(ctx context.Context, conn *pgx.Conn, slot string, lsn cdc.LSN, t time.Time) (*Entry, error) {
	return find(ctx, conn, entry+" AND end_lsn <= $2::text::pg_lsn AND at <= $3 ORDER BY at DESC LIMIT 1", slot, lsn.String(), t)
}

func find(ctx context.Context, conn *pgx.Conn, query string, args ...any) (*Entry, error) {
	e, err := scan(conn.QueryRow(ctx, query, args...))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the checkpoint log of slot %q: %w", args[0], explain(err))
	}
	return e, nil
}

func scan(row pgx.Row) (*Entry, error) {
	var (
		e        Entry
		lsn, end string
		xid      int64
	)
	err := row.Scan(&e.At, &lsn, &end, &xid)
	if err == nil {
		e.LSN, err = cdc.ParseLSN(lsn)
	}
	if err == nil {
		e.End, err = cdc.ParseLSN(end)
	}
	if err != nil {
		return nil, err
	}
	e.OldestXID = uint64(xid)
	return &e, nil
}
