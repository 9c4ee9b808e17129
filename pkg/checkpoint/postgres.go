package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/pkg/cdc"
	sqlfiles "github.com/walpost/walpost/sql"
)

// PostgresConfig holds a Postgres store's settings.
type PostgresConfig struct {
	// DSN is a connection string as libpq takes it, URL or keywords, to the
	// database that the events come from. Empty means libpq's PG* variables.
	DSN string

	// Slot is the name of the slot whose checkpoint this is. Required.
	Slot string

	// Owner says who acquired the checkpoint, for people who look into the
	// table. Defaults to host/pid.
	Owner string
}

// Postgres keeps the checkpoint in a row of the table walpost.checkpoint, one row
// for each slot. It connects on its first call, keeps the one connection, and
// connects again on Load and on the call after one that failed. It works through a pooler
// that gives out a connection for a transaction at a time.
//
// Its errors are [cdc.RefusedError] if the role lacks a right, [cdc.ErrFenced],
// and else those of pgx, with [pgconn.PgError] in their chain where the server
// answered.
type Postgres struct {
	slot, owner string
	session     *session
	epoch       atomic.Int64 // of the last Acquire; zero before it, which no row has
}

// NewPostgres returns a store that has not connected yet. The error lists all
// that is wrong with cfg.
func NewPostgres(cfg PostgresConfig) (*Postgres, error) {
	session, err := newSession(cfg.DSN)
	if err := errors.Join(err, checkSlot(cfg.Slot)); err != nil {
		return nil, err
	}
	return &Postgres{
		slot:    cfg.Slot,
		owner:   cmp.Or(cfg.Owner, defaultOwner()),
		session: session,
	}, nil
}

// Close ends the connection, after the call that may be using it.
func (p *Postgres) Close() error { return p.session.close() }

// SQLSTATE codes.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	undefinedTable        = "42P01"
	undefinedColumn       = "42703"
	insufficientPrivilege = "42501"
)

// SystemID returns the system identifier of the cluster.
func (p *Postgres) SystemID(ctx context.Context) (id uint64, err error) {
	err = p.session.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var text string
		if err := conn.QueryRow(ctx, `SELECT system_identifier::text FROM pg_control_system()`).Scan(&text); err != nil {
			return err
		}
		id, err = strconv.ParseUint(text, 10, 64)
		return err
	})
	return id, err
}

// settings hold for one transaction, since with a pooler the next one may be in
// another server process.
//
// The saved position must outlive a crash, for the slot is confirmed next, so
// the commit waits for this server's disk whatever the database is set to. It
// does not wait for a synchronous standby: if one is away that would stop every
// slot's publishing, and if the standby takes over without the newest position,
// events are repeated and none is lost.
const settings = `SELECT
	set_config('synchronous_commit', 'local', true),
	set_config('statement_timeout', '5s', true),
	set_config('lock_timeout', '3s', true),
	set_config('idle_in_transaction_session_timeout', '10s', true)`

// The time is printed by hand: as the session's datestyle has it, which a pooler need not let us
// set, the driver may not be able to read it.
const columns = `epoch, coalesce(system_id, 0)::text, coalesce(timeline, 0), coalesce(lsn, '0/0')::text,
	coalesce(to_char(saved_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), ''),
	coalesce(partial_commit_lsn, '0/0')::text, coalesce(partial_rows, 0), coalesce(partial_last_id, '')`

// Load implements [cdc.Store]. The checkpoint of a missing table is a zero one.
func (p *Postgres) Load(ctx context.Context) (cdc.Checkpoint, error) {
	var cp cdc.Checkpoint
	err := p.session.doAnew(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		cp, err = scan(conn.QueryRow(ctx, `SELECT `+columns+` FROM walpost.checkpoint WHERE slot = $1`, p.slot))
		if errors.Is(err, pgx.ErrNoRows) || hasCode(err, undefinedTable) {
			return nil
		}
		return err
	})
	if err != nil {
		return cdc.Checkpoint{}, fmt.Errorf("load checkpoint of slot %q: %w", p.slot, p.explain(err))
	}
	return cp, nil
}

// Acquire implements [cdc.Store]. It creates the schema and the table if the
// table is missing, and else needs no right to create anything.
func (p *Postgres) Acquire(ctx context.Context) (cdc.Checkpoint, error) {
	var cp cdc.Checkpoint
	err := p.session.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
			cp, err = p.acquire(ctx, tx)
			return err
		})
		if err == nil {
			p.epoch.Store(cp.Epoch)
		}
		return err
	})
	if err != nil {
		return cdc.Checkpoint{}, fmt.Errorf("acquire checkpoint of slot %q: %w", p.slot, p.explain(err))
	}
	return cp, nil
}

func (p *Postgres) acquire(ctx context.Context, tx pgx.Tx) (cdc.Checkpoint, error) {
	if _, err := tx.Exec(ctx, settings); err != nil {
		return cdc.Checkpoint{}, err
	}
	if err := createMissing(ctx, tx); err != nil {
		return cdc.Checkpoint{}, err
	}
	return scan(tx.QueryRow(ctx, `
		INSERT INTO walpost.checkpoint AS c (slot, epoch, owner, acquired_at)
		VALUES ($1, 1, $2, clock_timestamp())
		ON CONFLICT (slot) DO UPDATE
		SET epoch = c.epoch + 1, owner = excluded.owner, acquired_at = excluded.acquired_at
		RETURNING `+columns, p.slot, p.owner))
}

// createMissing creates the table if there is none.
func createMissing(ctx context.Context, tx pgx.Tx) error {
	const exists = `SELECT to_regclass('walpost.checkpoint') IS NOT NULL`
	var found bool
	if err := tx.QueryRow(ctx, exists).Scan(&found); err != nil || found {
		return err
	}
	// Of two processes that find it missing, one waits here for the other.
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtext('walpost.checkpoint'))`); err != nil {
		return err
	}
	steps, err := sqlfiles.Render(sqlfiles.Names{}, sqlfiles.Checkpoint)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, steps[0].SQL, pgx.QueryExecModeSimpleProtocol)
	if hasCode(err, insufficientPrivilege) {
		return &cdc.RefusedError{
			Err:  fmt.Errorf("create table walpost.checkpoint: %w", err),
			Hint: "run walpost init",
		}
	}
	return err
}

// Save implements [cdc.Store]. It is one round trip.
func (p *Postgres) Save(ctx context.Context, pos cdc.Position) error {
	err := p.session.do(ctx, func(ctx context.Context, conn *pgx.Conn) error { return p.save(ctx, conn, pos) })
	if err != nil {
		return fmt.Errorf("save checkpoint of slot %q at %s: %w", p.slot, pos.LSN, p.explain(err))
	}
	return nil
}

// update stores a position for who has the epoch. Positions are compared within
// one history only; that of another replaces what is there.
const update = `
	UPDATE walpost.checkpoint SET
		(system_id, timeline, lsn, partial_commit_lsn, partial_rows, partial_last_id) = (
			SELECT n.* FROM (VALUES ($3::numeric, $4::bigint, $5::pg_lsn, $6::pg_lsn, $7::bigint, $8::text)) n
			WHERE (system_id, timeline) IS DISTINCT FROM ($3::numeric, $4::bigint) OR lsn <= $5::pg_lsn
			UNION ALL
			SELECT system_id, timeline, lsn, partial_commit_lsn, partial_rows, partial_last_id
			WHERE (system_id, timeline) = ($3::numeric, $4::bigint) AND lsn > $5::pg_lsn),
		saved_at = clock_timestamp()
	WHERE slot = $1 AND epoch = $2`

// save sends the whole transaction at once, so that the server never waits for
// us while it holds the row. The position is durable when save returns nil.
func (p *Postgres) save(ctx context.Context, conn *pgx.Conn, pos cdc.Position) error {
	var partialLSN, partialRows, partialID any // NULL if there is no such thing
	if pos.Partial.Rows > 0 {
		partialLSN, partialRows, partialID = pos.Partial.CommitLSN.String(), pos.Partial.Rows, pos.Partial.LastID
	}
	batch := new(pgx.Batch)
	batch.Queue(`BEGIN`)
	batch.Queue(settings)
	batch.Queue(update, p.slot, p.epoch.Load(),
		strconv.FormatUint(pos.SystemID, 10), int64(pos.Timeline), pos.LSN.String(), partialLSN, partialRows, partialID).
		Exec(func(tag pgconn.CommandTag) error {
			if tag.RowsAffected() == 0 {
				return cdc.ErrFenced
			}
			return nil
		})
	batch.Queue(`COMMIT`)
	return conn.SendBatch(ctx, batch).Close()
}

// scan reads the columns of a checkpoint.
func scan(row pgx.Row) (cdc.Checkpoint, error) {
	var (
		cp                              cdc.Checkpoint
		systemID, lsn, partial, savedAt string
	)
	if err := row.Scan(&cp.Epoch, &systemID, &cp.Timeline, &lsn, &savedAt, &partial, &cp.Partial.Rows, &cp.Partial.LastID); err != nil {
		return cdc.Checkpoint{}, err
	}
	var errID, errLSN, errPartial error
	cp.SystemID, errID = strconv.ParseUint(systemID, 10, 64)
	cp.LSN, errLSN = cdc.ParseLSN(lsn)
	cp.Partial.CommitLSN, errPartial = cdc.ParseLSN(partial)
	if err := errors.Join(errID, errLSN, errPartial); err != nil {
		return cdc.Checkpoint{}, err
	}
	if savedAt != "" {
		var err error
		if cp.SavedAt, err = time.Parse(time.RFC3339Nano, savedAt); err != nil {
			return cdc.Checkpoint{}, err
		}
	}
	return cp, nil
}

// explain says how a right that is lacking can be given, and who mends a table of an earlier
// version.
func (p *Postgres) explain(err error) error {
	var refused *cdc.RefusedError
	if hasCode(err, undefinedColumn) {
		return cdc.Refuse("run walpost init", "table walpost.checkpoint is of an earlier version: %w", err)
	}
	if !hasCode(err, insufficientPrivilege) || errors.As(err, &refused) {
		return err
	}
	role := pgx.Identifier{p.session.config.User}.Sanitize()
	return &cdc.RefusedError{Err: err, Hint: fmt.Sprintf("GRANT USAGE ON SCHEMA walpost TO %s; "+
		"GRANT SELECT, INSERT, UPDATE ON walpost.checkpoint TO %s", role, role)}
}

func hasCode(err error, code string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == code
}
