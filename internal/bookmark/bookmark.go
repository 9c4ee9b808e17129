// Package bookmark keeps named positions, from which what was published can be published
// again: each is a logical slot of its own that nobody streams from, so that the server
// keeps the WAL behind it.
package bookmark

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/history"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// WindowName is the name of the bookmark that the service moves along for replay.window.
const WindowName = "window"

// Bookmark is a position that keeps its WAL.
type Bookmark struct {
	Name     string     `json:"bookmark"`
	Slot     string     `json:"slot"` // that keeps the WAL
	LSN      cdc.LSN    `json:"lsn"`  // what was committed from there on can be published again
	Since    *time.Time `json:"since"`
	Retained int64      `json:"retained_bytes"`
	Status   string     `json:"status"` // as pg_replication_slots has it, or why it is lost
	Usable   bool       `json:"usable"`
}

const infix = "_bm_"

var names = regexp.MustCompile(`^[a-z0-9_]{1,32}$`)

// IsName reports whether a bookmark can have the name.
func IsName(s string) bool { return names.MatchString(s) }

// SlotName returns the slot of a bookmark of a live slot.
func SlotName(live, name string) (string, error) {
	if !IsName(name) {
		return "", fmt.Errorf("bookmark %q: want 1 to 32 lower-case letters, digits and underscores", name)
	}
	slot := live + infix + name
	if len(slot) > 63 {
		return "", fmt.Errorf("bookmark %q: its slot would be called %q, which is longer than the 63 bytes that Postgres allows", name, slot)
	}
	return slot, nil
}

// Limits bound what a new bookmark may keep. Zero is no bound.
type Limits struct {
	MaxBytes int64 // of WAL
}

// Create makes a bookmark that stands where the live slot is confirmed, or at the end of
// WAL if atEnd is set. It refuses one that would keep more than the limits allow at once.
func Create(ctx context.Context, conn *pgx.Conn, live, name string, atEnd bool, limits Limits) (Bookmark, error) {
	slot, err := SlotName(live, name)
	if err != nil {
		return Bookmark{}, err
	}
	source, err := pgsource.ReadSlot(ctx, conn, live)
	if err != nil {
		return Bookmark{}, err
	}
	if source == nil {
		return Bookmark{}, pgsource.NoSlot(ctx, conn, live, cdc.Refuse("run walpost init, or set postgres.slot", "slot %q does not exist", live))
	}
	if err := pgsource.CheckSlot(live, source); err != nil {
		return Bookmark{}, err
	}
	if err := limits.check(ctx, conn, source); err != nil {
		return Bookmark{}, err
	}
	at := source.ConfirmedFlush
	const create = "SELECT pg_copy_logical_replication_slot($1, $2)"
	if _, err := conn.Exec(ctx, create, live, slot); err != nil {
		return Bookmark{}, createError(name, err)
	}
	if atEnd {
		at = source.End
		if err := move(ctx, conn, slot, at); err != nil {
			return Bookmark{}, errors.Join(err, drop(ctx, conn, slot))
		}
	}
	if _, err := history.Add(ctx, conn, slot, at); err != nil {
		return Bookmark{}, errors.Join(err, drop(ctx, conn, slot))
	}
	return get(ctx, conn, live, name)
}

// check refuses a copy of the slot that would keep too much from the start.
func (l Limits) check(ctx context.Context, conn *pgx.Conn, source *pgsource.SlotState) error {
	if l.MaxBytes > 0 && source.Retained > l.MaxBytes {
		return cdc.Refuse("let the slot catch up first, or raise replay.max_bytes",
			"a bookmark would keep %s of WAL at once, as its slot does, and replay.max_bytes is %s", humanize.IBytes(uint64(source.Retained)), humanize.IBytes(uint64(l.MaxBytes)))
	}
	var keep int64
	const query = "SELECT setting::bigint * 1048576 FROM pg_settings WHERE name = 'max_slot_wal_keep_size'"
	if err := conn.QueryRow(ctx, query).Scan(&keep); err != nil {
		return fmt.Errorf("read max_slot_wal_keep_size: %w", err)
	}
	if keep > 0 && source.Retained > keep/2 {
		return cdc.Refuse("let the slot catch up first, or raise max_slot_wal_keep_size",
			"a bookmark would keep %s of WAL at once, more than half of max_slot_wal_keep_size (%s), and would soon be lost", humanize.IBytes(uint64(source.Retained)), humanize.IBytes(uint64(keep)))
	}
	return nil
}

func createError(name string, err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "42710": // duplicate_object
			return cdc.Refuse("walpost bookmark advance moves it, walpost bookmark drop drops it", "bookmark %q exists", name)
		case "53400": // configuration_limit_exceeded
			return cdc.Refuse("raise max_replication_slots, or drop a slot that nothing needs", "create bookmark %q: %w", name, err)
		case "42501": // insufficient_privilege
			return cdc.Refuse("let a role with the REPLICATION attribute do it", "create bookmark %q: %w", name, err)
		}
	}
	return fmt.Errorf("create bookmark %q: %w", name, err)
}

// List returns the bookmarks of a live slot, the oldest first.
func List(ctx context.Context, conn *pgx.Conn, live string) ([]Bookmark, error) {
	const query = `SELECT substr(slot_name, length($1) + 1) FROM pg_replication_slots
		WHERE starts_with(slot_name, $1) AND slot_type = 'logical' AND database = current_database() AND NOT temporary
		ORDER BY confirmed_flush_lsn, slot_name`
	rows, err := conn.Query(ctx, query, live+infix)
	if err != nil {
		return nil, fmt.Errorf("list bookmarks: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list bookmarks: %w", err)
	}
	all := []Bookmark{}
	for _, name := range found {
		b, err := get(ctx, conn, live, name)
		var gone *cdc.RefusedError
		switch {
		case errors.As(err, &gone): // dropped meanwhile
		case err != nil:
			return nil, err
		default:
			all = append(all, b)
		}
	}
	return all, nil
}

// get returns a bookmark.
func get(ctx context.Context, conn *pgx.Conn, live, name string) (Bookmark, error) {
	slot, err := SlotName(live, name)
	if err != nil {
		return Bookmark{}, err
	}
	state, err := pgsource.ReadSlot(ctx, conn, slot)
	if err != nil {
		return Bookmark{}, err
	}
	if state == nil {
		return Bookmark{}, cdc.Refuse("walpost bookmark list shows those that are there", "bookmark %q does not exist", name)
	}
	b := Bookmark{Name: name, Slot: slot, LSN: state.ConfirmedFlush, Retained: state.Retained, Status: state.WALStatus, Usable: !state.Lost()}
	if state.Lost() {
		b.Status = state.LostReason()
	}
	switch set, err := history.At(ctx, conn, slot, time.Now().Add(time.Hour)); {
	case errors.Is(err, history.ErrMissing):
	case err != nil:
		return Bookmark{}, err
	case set != nil:
		b.Since = &set.At
	}
	return b, nil
}

// Advance moves a bookmark forward to lsn, and lets the server forget what is before. It
// refuses to go back. lsn must not lie beyond the end of WAL.
func Advance(ctx context.Context, conn *pgx.Conn, live, name string, lsn cdc.LSN) (Bookmark, error) {
	b, err := get(ctx, conn, live, name)
	switch {
	case err != nil:
		return Bookmark{}, err
	case !b.Usable:
		return Bookmark{}, cdc.Refuse("drop it: nothing can be published again from it", "bookmark %q is lost: %s", name, b.Status)
	case lsn < b.LSN:
		return Bookmark{}, cdc.Refuse("a slot never goes back", "bookmark %q stands at %s, beyond %s", name, b.LSN, lsn)
	}
	if err := move(ctx, conn, b.Slot, lsn); err != nil {
		return Bookmark{}, err
	}
	if _, err := history.Add(ctx, conn, b.Slot, lsn); err != nil {
		return Bookmark{}, err
	}
	return get(ctx, conn, live, name)
}

// Drop drops a bookmark, and lets the server forget what it kept.
func Drop(ctx context.Context, conn *pgx.Conn, live, name string) error {
	b, err := get(ctx, conn, live, name)
	if err != nil {
		return err
	}
	if err := drop(ctx, conn, b.Slot); err != nil {
		return err
	}
	if err := history.Forget(ctx, conn, b.Slot); err != nil && !errors.Is(err, history.ErrMissing) {
		return err
	}
	return nil
}

// move advances the slot to lsn, unless it is there.
func move(ctx context.Context, conn *pgx.Conn, slot string, lsn cdc.LSN) error {
	const query = "SELECT pg_replication_slot_advance(slot_name, $2::text::pg_lsn) FROM pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn < $2::text::pg_lsn"
	if _, err := conn.Exec(ctx, query, slot, lsn.String()); err != nil {
		return fmt.Errorf("advance slot %q to %s: %w", slot, lsn, err)
	}
	return nil
}

func drop(ctx context.Context, conn *pgx.Conn, slot string) error {
	if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", slot); err != nil {
		return fmt.Errorf("drop slot %q: %w", slot, err)
	}
	return nil
}
