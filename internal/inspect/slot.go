// Package inspect looks at a server and at a running instance from the outside, without
// streaming: what walpost status reports.
package inspect

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// Server is what there is to know of the server once for all slots.
type Server struct {
	Version string  `json:"version"`
	End     cdc.LSN `json:"wal_end"` // as it is on disk

	// Rate is how many bytes of WAL are written in a second, as measured over the time
	// of the look.
	Rate float64 `json:"wal_bytes_per_second"`

	// KeepSize is max_slot_wal_keep_size in bytes; negative means that nothing but the
	// disk ends what a slot keeps.
	KeepSize int64 `json:"max_slot_wal_keep_size"`

	// DiskFree is how many bytes fit on the disk of the data directory; nil where that
	// cannot be seen: from another machine, which a connection by TCP may be, or without
	// the right to read the setting data_directory.
	DiskFree *int64 `json:"disk_free_bytes"`
}

// Slot is a replication slot as the server shows it.
// https://www.postgresql.org/docs/current/view-pg-replication-slots.html
type Slot struct {
	Name      string  `json:"slot"`
	Exists    bool    `json:"exists"`
	Active    bool    `json:"active"`
	ActivePID int     `json:"active_pid,omitempty"`
	Restart   cdc.LSN `json:"restart_lsn"`
	Confirmed cdc.LSN `json:"confirmed_lsn"`

	// Status is wal_status, or why the slot is lost.
	Status string `json:"status"`

	// Unusable is why walpost could not read from it, a [cdc.RefusedError]; nil if it
	// could.
	Unusable error `json:"-"`

	Lag      int64 `json:"lag_bytes"`      // WAL that is not confirmed
	Retained int64 `json:"retained_bytes"` // WAL that the slot keeps

	// Safe is how many bytes of WAL can be written before the slot may be lost; nil
	// without a limit.
	Safe *int64 `json:"safe_bytes"`

	// Left is how long it takes at the current rate until the slot may be lost or the disk
	// is full; nil if neither is known, while nothing is written, and beyond a year.
	Left *time.Duration `json:"left_ns"`
}

// farOff is from when on the time that is left is no news.
const farOff = 365 * 24 * time.Hour

// rateTime is how long the rate of WAL is measured.
const rateTime = time.Second

// LookAtServer takes a second, for the rate.
func LookAtServer(ctx context.Context, conn *pgx.Conn) (Server, error) {
	var s Server
	const settings = `SELECT current_setting('server_version'), CASE WHEN setting::bigint < 0 THEN -1 ELSE setting::bigint * 1048576 END
		FROM pg_settings WHERE name = 'max_slot_wal_keep_size'`
	if err := conn.QueryRow(ctx, settings).Scan(&s.Version, &s.KeepSize); err != nil {
		return s, fmt.Errorf("read the server's settings: %w", err)
	}
	s.DiskFree = localDisk(ctx, conn)
	before, begun, err := end(ctx, conn)
	if err != nil {
		return s, err
	}
	select {
	case <-ctx.Done():
		return s, context.Cause(ctx)
	case <-time.After(rateTime):
	}
	after, ended, err := end(ctx, conn)
	if err != nil {
		return s, err
	}
	s.End, s.Rate = after, float64(after-before)/ended.Sub(begun).Seconds()
	return s, nil
}

// end returns the end of WAL and when it was there.
func end(ctx context.Context, conn *pgx.Conn) (lsn cdc.LSN, at time.Time, err error) {
	var text string
	if err := conn.QueryRow(ctx, "SELECT ("+pgsource.EndOfWAL+")::text, clock_timestamp()").Scan(&text, &at); err != nil {
		return 0, at, fmt.Errorf("read the end of WAL: %w", err)
	}
	lsn, err = cdc.ParseLSN(text)
	return lsn, at, err
}

// LookAtSlot returns what the server shows of a slot. One that is not there is no error.
func LookAtSlot(ctx context.Context, conn *pgx.Conn, server Server, name string) (Slot, error) {
	s := Slot{Name: name}
	state, err := pgsource.ReadSlot(ctx, conn, name)
	if err == nil && state == nil {
		s.Unusable = pgsource.NoSlot(ctx, conn, name, cdc.Refuse(missingSlotHint, "slot %q does not exist", name))
	}
	if err != nil || state == nil {
		return s, err
	}
	s.Exists, s.Active, s.ActivePID = true, state.Active, state.ActivePID
	s.Restart, s.Confirmed = state.RestartLSN, state.ConfirmedFlush
	s.Lag, s.Retained, s.Safe = state.Unconfirmed, state.Retained, state.SafeWALSize
	s.Status, s.Unusable = state.WALStatus, pgsource.CheckSlot(name, state)
	if state.Lost() {
		s.Status = state.LostReason()
	}
	s.Left = server.until(s.Safe, server.DiskFree)
	return s, nil
}

// until returns how long it takes at the current rate until the smallest room is full, or nil.
func (s Server) until(rooms ...*int64) (left *time.Duration) {
	for _, room := range rooms {
		if room == nil || s.Rate <= 0 {
			continue
		}
		d := float64(max(0, *room)) / s.Rate * float64(time.Second)
		if d < float64(farOff) && (left == nil || time.Duration(d) < *left) {
			left = new(time.Duration(d))
		}
	}
	return left
}

// localDisk returns what fits on the disk of the data directory, or nil. WAL that is linked
// to another disk is not seen.
func localDisk(ctx context.Context, conn *pgx.Conn) *int64 {
	if !strings.HasPrefix(conn.Config().Host, "/") {
		return nil
	}
	var dir string
	if err := conn.QueryRow(ctx, "SELECT setting FROM pg_settings WHERE name = 'data_directory'").Scan(&dir); err != nil {
		return nil // not allowed to see it
	}
	free, err := DiskFree(dir)
	if err != nil {
		return nil // not here
	}
	return new(int64(free))
}
