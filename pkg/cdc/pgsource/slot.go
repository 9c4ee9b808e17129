package pgsource

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/pkg/cdc"
)

// SlotState is a row of pg_replication_slots. Columns that the server's version
// lacks stay at their zero values.
// https://www.postgresql.org/docs/current/view-pg-replication-slots.html
type SlotState struct {
	Plugin             string  `json:"plugin"`
	Type               string  `json:"slot_type"`
	Database           string  `json:"database"`
	Active             bool    `json:"active"`
	ActivePID          int     `json:"active_pid"`
	RestartLSN         cdc.LSN `json:"restart_lsn"`
	ConfirmedFlush     cdc.LSN `json:"confirmed_flush_lsn"`
	WALStatus          string  `json:"wal_status"`
	SafeWALSize        *int64  `json:"safe_wal_size"`
	Conflicting        bool    `json:"conflicting"`         // 16
	InvalidationReason string  `json:"invalidation_reason"` // 17
	Failover           bool    `json:"failover"`            // 17
	TwoPhase           bool    `json:"two_phase"`

	End         cdc.LSN `json:"-"` // of WAL
	Retained    int64   `json:"-"` // bytes of WAL that the slot keeps
	Unconfirmed int64   `json:"-"` // bytes of WAL beyond the confirmed position

	currentDatabase string
}

// Lost reports whether the server has invalidated the slot: nothing more comes from it.
func (s *SlotState) Lost() bool {
	return s.WALStatus == "lost" || s.Conflicting || s.InvalidationReason != ""
}

// LostReason is why a lost slot is so, as far as the server tells.
func (s *SlotState) LostReason() string {
	reason := cmp.Or(s.InvalidationReason, s.WALStatus)
	if s.Conflicting {
		reason = "conflicting with recovery"
	}
	return reason
}

// EndOfWAL is an SQL expression for the end of WAL as it is on disk.
const EndOfWAL = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END"

// ReadSlot returns the slot, or nil if there is none. Any role may read it.
func ReadSlot(ctx context.Context, conn *pgx.Conn, name string) (*SlotState, error) {
	const query = `
		SELECT to_jsonb(s), current_database(), wal.lsn::text,
			coalesce(wal.lsn - s.restart_lsn, 0)::bigint, coalesce(wal.lsn - s.confirmed_flush_lsn, 0)::bigint
		FROM pg_replication_slots s, (SELECT ` + EndOfWAL + ` AS lsn) wal
		WHERE slot_name = $1`
	var (
		row  string
		end  string
		slot SlotState
	)
	err := conn.QueryRow(ctx, query, name).Scan(&row, &slot.currentDatabase, &end, &slot.Retained, &slot.Unconfirmed)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal([]byte(row), &slot)
	}
	if err == nil {
		slot.End, err = cdc.ParseLSN(end)
	}
	if err != nil {
		return nil, fmt.Errorf("read slot %q: %w", name, err)
	}
	return &slot, nil
}

// createTimeout bounds the creation of a slot, which waits until every
// transaction that is running and has written anything is over.
const createTimeout = 30 * time.Second

// createSlot creates the slot and returns its position.
func (s *Source) createSlot(ctx context.Context, conn *pgx.Conn) (cdc.LSN, error) {
	version, err := serverVersion(ctx, conn)
	if err != nil {
		return 0, err
	}
	query := "SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput')"
	if s.cfg.Failover == FailoverOn || s.cfg.Failover == FailoverAuto && version >= 170000 {
		query = "SELECT lsn::text FROM pg_create_logical_replication_slot($1, 'pgoutput', failover => true)"
	}
	cctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	if err := lift(cctx, conn.PgConn(), "lock_timeout"); err != nil { // it waits in a lock for each transaction
		return 0, err
	}
	var text string
	if err := conn.QueryRow(cctx, query, s.cfg.Slot).Scan(&text); err != nil {
		return 0, s.createError(ctx, err, cctx.Err() != nil && ctx.Err() == nil)
	}
	lsn, err := cdc.ParseLSN(text)
	if err != nil {
		return 0, fmt.Errorf("create slot %q: %w", s.cfg.Slot, err)
	}
	s.cfg.Logger.Info("slot created", "slot", s.cfg.Slot, "lsn", lsn.String())
	return lsn, nil
}

func (s *Source) createError(ctx context.Context, err error, timedOut bool) error {
	if timedOut {
		return fmt.Errorf("create slot %q: a running transaction is in the way for %s: %s", s.cfg.Slot, createTimeout, s.blocker(ctx))
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case codeInsufficientPrivilege:
			return cdc.Refuse("let a role with the REPLICATION attribute run walpost init", "create slot %q: %w", s.cfg.Slot, err)
		case "53400": // configuration_limit_exceeded
			return cdc.Refuse("raise max_replication_slots, or drop a slot that nothing needs", "create slot %q: %w", s.cfg.Slot, err)
		}
	}
	return fmt.Errorf("create slot %q: %w", s.cfg.Slot, err)
}

// blocker names the oldest transaction that has written something.
func (s *Source) blocker(ctx context.Context) string {
	conn, err := s.connectControl(ctx)
	if err != nil {
		return err.Error()
	}
	defer closeConn(conn.PgConn())
	const query = `
		SELECT format('pid %s, role %s, application %L, %s, begun %s ago', pid, usename, application_name, state, now() - xact_start)
		FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start LIMIT 1`
	var text string
	if err := conn.QueryRow(ctx, query).Scan(&text); err != nil {
		return "it is over by now, or hidden from this role"
	}
	return text
}

// standbyInterval is how often a standby looks whether the slot is free. It
// does not block in a lock instead: a waiting statement holds a snapshot, and
// with it the removal of dead rows in the whole database.
const standbyInterval = 500 * time.Millisecond

const (
	// startGrace is how long a slot may be in use at a start that is not to
	// wait: a predecessor that was killed a moment ago leaves it soon.
	startGrace = 3 * time.Second

	// reopenGrace is the same after a broken connection: the slot may be held
	// by the other end of our own, which has to notice first.
	reopenGrace = 90 * time.Second
)

// own makes this session the only owner of the slot, by a session advisory lock
// on its name, and waits until nothing streams from it.
func (s *Source) own(ctx context.Context, conn *pgx.Conn) error {
	defer s.ownedOrNot()
	ticker := time.NewTicker(standbyInterval)
	defer ticker.Stop()
	grace := startGrace
	if s.opened {
		grace = reopenGrace
	}
	begun := time.Now()
	for locked := false; ; {
		var inUse *slotInUse
		err := answered(ctx, func(ctx context.Context) (err error) {
			if inUse, err = s.tryOwn(ctx, conn, &locked); err != nil || inUse != nil {
				return err
			}
			return s.endPulls(ctx, conn)
		})
		if err != nil {
			return err
		}
		if inUse == nil {
			s.ownerPID = conn.PgConn().PID()
			return nil
		}
		if !s.cfg.WaitForSlot && time.Since(begun) > grace {
			return cdc.Refuse("stop that one, or set postgres.wait_for_slot to take over when it ends", "slot %q is in use by %s", s.cfg.Slot, inUse.holder)
		}
		s.waitFor(inUse)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// slotInUse is why the slot cannot be owned yet.
type slotInUse struct {
	holder  string
	standby bool // another walpost owns it, and is who publishes
}

// waitFor notes what the slot is waited for, and logs it once.
func (s *Source) waitFor(inUse *slotInUse) {
	before := s.waiting.Swap(inUse)
	if before != nil && *before == *inUse {
		return
	}
	if !inUse.standby {
		s.cfg.Logger.Warn("waiting for the slot", "slot", s.cfg.Slot, "held_by", inUse.holder)
		return
	}
	s.metrics.forget() // of a stream that this process had before
	s.cfg.Logger.Info("standby: waiting for the slot", "slot", s.cfg.Slot, "held_by", inUse.holder)
}

// ownedOrNot ends the wait for the slot.
func (s *Source) ownedOrNot() {
	if now, _ := s.Standby(); now {
		s.stoodBy.Store(cdc.Stamp(time.Now()))
	}
	s.waiting.Store(nil)
}

// tryOwn tries once, and returns who holds the slot if that failed.
func (s *Source) tryOwn(ctx context.Context, conn *pgx.Conn, locked *bool) (*slotInUse, error) {
	if !*locked {
		if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", lockKey(s.cfg.Slot)).Scan(locked); err != nil {
			return nil, fmt.Errorf("lock slot %q: %w", s.cfg.Slot, err)
		}
		if !*locked {
			return s.lockHolder(ctx, conn)
		}
	}
	slot, err := ReadSlot(ctx, conn, s.cfg.Slot)
	if err != nil || slot == nil || !slot.Active {
		return nil, err
	}
	return &slotInUse{holder: fmt.Sprintf("the server process %d", slot.ActivePID)}, nil
}

// lockHolder says who has the lock on the slot. The server may not have noticed yet that
// our own connection is broken, and nobody publishes until it does.
func (s *Source) lockHolder(ctx context.Context, conn *pgx.Conn) (*slotInUse, error) {
	const query = `SELECT coalesce(bool_or(pid = $2), false) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
		AND (classid::bigint << 32) | objid::bigint = $1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
	var own bool
	if err := conn.QueryRow(ctx, query, lockKey(s.cfg.Slot), int64(s.ownerPID)).Scan(&own); err != nil {
		return nil, fmt.Errorf("read who has the lock on slot %q: %w", s.cfg.Slot, err)
	}
	if own {
		return &slotInUse{holder: fmt.Sprintf("an earlier session of this process, the server process %d", s.ownerPID)}, nil
	}
	return &slotInUse{holder: "another walpost", standby: true}, nil
}

// endPulls ends the sessions in which an earlier owner of the slot pulls. One that was
// frozen in it is not noticed by the server, which waits to send, and would keep WAL and
// hold vacuum back for as long as the process stays frozen.
func (s *Source) endPulls(ctx context.Context, conn *pgx.Conn) error {
	const query = `SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE temporary AND starts_with(slot_name, $1) AND active_pid IS NOT NULL`
	var n int
	err := conn.QueryRow(ctx, query, pullPrefix(s.cfg.Slot)).Scan(&n)
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && pgErr.Code == codeInsufficientPrivilege:
		s.cfg.Logger.Warn("an earlier owner of the slot still pulls in a session of another role, and keeps WAL", "error", err)
	case err != nil:
		return fmt.Errorf("end the pull of an earlier owner of slot %q: %w", s.cfg.Slot, err)
	case n > 0:
		s.cfg.Logger.Info("ended the pull of an earlier owner of the slot", "slot", s.cfg.Slot)
	}
	return nil
}

// pullPrefix is how the names of the slot's temporary copies begin.
func pullPrefix(slot string) string { return fmt.Sprintf("walpost_pull_%016x_", uint64(lockKey(slot))) }

// lockKey is the advisory lock that stands for a slot. Advisory locks belong to
// a database, as logical slots do.
func lockKey(slot string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte("walpost slot " + slot)) // never fails
	return int64(h.Sum64())
}
