package checkpoint

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/pkg/cdc"
)

// SlotConfig holds a Slot store's settings.
type SlotConfig struct {
	// DSN is a connection string as libpq takes it, URL or keywords, to the
	// database that the events come from. Empty means libpq's PG* variables.
	DSN string

	// Slot is the name of the slot. Required.
	Slot string
}

// Slot keeps no checkpoint of its own: the position is the slot's
// confirmed_flush_lsn, and to confirm a position to the slot is to save it. It
// writes nothing, so it has no epoch and fences nobody; that only one process
// can read a slot is the fence. It reads the server's identity with the
// position, so the position is never of another history than the server, and a
// slot that was dropped looks like one that never was.
//
// Postgres writes the slot's position to disk when it has other reasons to: a
// crash may set it back, and what follows it is then published again.
type Slot struct {
	slot    string
	session *session
}

// NewSlot returns a store that has not connected yet. The error lists all that is
// wrong with cfg.
func NewSlot(cfg SlotConfig) (*Slot, error) {
	session, err := newSession(cfg.DSN)
	if err := errors.Join(err, checkSlot(cfg.Slot)); err != nil {
		return nil, err
	}
	return &Slot{slot: cfg.Slot, session: session}, nil
}

// Close ends the connection, after the call that may be using it.
func (s *Slot) Close() error { return s.session.close() }

// position reads the timeline from the name of the WAL file being written:
// pg_control_checkpoint() tells the one before for a while after a promotion.
// https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-BACKUP
const position = `
	SELECT 0::bigint, system_identifier::text,
		('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint,
		confirmed_flush_lsn::text, '', '0/0', 0::bigint, ''
	FROM pg_replication_slots, pg_control_system()
	WHERE slot_name = $1 AND confirmed_flush_lsn IS NOT NULL`

// Load implements [cdc.Store]. The checkpoint of a missing slot is a zero one; no
// checkpoint has an epoch or a SavedAt.
func (s *Slot) Load(ctx context.Context) (cdc.Checkpoint, error) {
	cp, err := s.load(ctx)
	if err != nil {
		return cdc.Checkpoint{}, fmt.Errorf("load checkpoint from slot %q: %w", s.slot, err)
	}
	return cp, nil
}

// Acquire implements [cdc.Store]. It takes nothing over and does what Load does.
func (s *Slot) Acquire(ctx context.Context) (cdc.Checkpoint, error) {
	cp, err := s.load(ctx)
	if err != nil {
		return cdc.Checkpoint{}, fmt.Errorf("acquire checkpoint of slot %q: %w", s.slot, err)
	}
	return cp, nil
}

// Save implements [cdc.Store]. It does nothing: pos is saved when it is confirmed
// to the slot.
func (s *Slot) Save(ctx context.Context, pos cdc.Position) error {
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("save checkpoint of slot %q at %s: %w", s.slot, pos.LSN, err)
	}
	return nil
}

func (s *Slot) load(ctx context.Context) (cp cdc.Checkpoint, err error) {
	err = s.session.doAnew(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		cp, err = scan(conn.QueryRow(ctx, position, s.slot))
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	return cp, err
}
