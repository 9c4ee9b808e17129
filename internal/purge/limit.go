package purge

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgoutput"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// hold is a position that a slot or a bookmark stands at, so that rows from there on stay.
type hold struct {
	lsn   cdc.LSN
	whose string
	lost  string // the bookmark's name if the server has removed its WAL; else empty
}

func (h hold) String() string {
	text := fmt.Sprintf("%s stands at %s", h.whose, h.lsn)
	if h.lost != "" {
		text += fmt.Sprintf(" and is lost: only the table has its events, until walpost bookmark drop %s", h.lost)
	}
	return text
}

// refuse is the error of a purge that can delete nothing.
func (h hold) refuse() error {
	if h.lost != "" {
		return cdc.Refuse(fmt.Sprintf("walpost bookmark drop %s, once its events are not wanted any more or were published with walpost replay --source table: nothing was deleted", h.lost),
			"%s stands at %s and is lost: only the table has its events", h.whose, h.lsn)
	}
	return cdc.Refuse("let it catch up, or advance or drop the bookmark: nothing was deleted",
		"%s stands at %s: rows that old are not all published, or are still to be published again from there", h.whose, h.lsn)
}

// limit is the least that the slots and their bookmarks have left behind.
func (cfg Config) limit(ctx context.Context, conn *pgx.Conn) (least hold, err error) {
	take := func(h hold) {
		if least.whose == "" || h.lsn < least.lsn || h.lsn == least.lsn && h.lost != "" {
			least = h
		}
	}
	for _, s := range cfg.Slots {
		name := s.Name
		slot, err := pgsource.ReadSlot(ctx, conn, name)
		switch {
		case err != nil:
			return hold{}, err
		case slot == nil:
			return hold{}, pgsource.NoSlot(ctx, conn, name, cdc.Refuse("run walpost init, or set postgres.slot: nothing tells what is published", "slot %q does not exist", name))
		}
		if err := pgsource.CheckSlot(name, slot); err != nil {
			return hold{}, err
		}
		take(hold{lsn: slot.ConfirmedFlush, whose: fmt.Sprintf("slot %q", name)})
		kept, err := holding(ctx, conn, name)
		if err != nil {
			return hold{}, err
		}
		for _, b := range kept {
			h := hold{lsn: b.LSN, whose: fmt.Sprintf("bookmark %q", b.Name)}
			if !b.Usable {
				h.whose, h.lost = fmt.Sprintf("bookmark %q of slot %q", b.Name, name), b.Name
			}
			take(h)
		}
	}
	return least, nil
}

// holding returns the bookmarks of a slot that keep rows. A lost one does: the table is then
// the only copy of its events, until somebody drops it. The lost window does not: nobody has
// named its events, and the service makes another by itself, which begins at what is confirmed.
func holding(ctx context.Context, conn *pgx.Conn, live string) ([]bookmark.Bookmark, error) {
	all, err := bookmark.List(ctx, conn, live)
	return slices.DeleteFunc(all, func(b bookmark.Bookmark) bool { return !b.Usable && b.Name == bookmark.WindowName }), err
}

// maxPeek is how much WAL is looked through for events.
const maxPeek = 16 << 20

// passed reports whether no event lies between where each slot and bookmark stands and end:
// a position without events behind it is not saved at once. Nothing tells it of a lost
// bookmark before end.
func (cfg Config) passed(ctx context.Context, conn *pgx.Conn, end cdc.LSN) (bool, error) {
	for _, s := range cfg.Slots {
		slot, err := pgsource.ReadSlot(ctx, conn, s.Name)
		if err != nil || slot == nil {
			return false, err
		}
		kept, err := holding(ctx, conn, s.Name)
		if err != nil {
			return false, err
		}
		at := map[string]cdc.LSN{s.Name: slot.ConfirmedFlush}
		for _, b := range kept {
			if !b.Usable && b.LSN < end {
				return false, nil
			}
			at[b.Slot] = b.LSN
		}
		for name, lsn := range at {
			if lsn >= end {
				continue
			}
			if end-lsn > maxPeek {
				return false, nil
			}
			if found, err := events(ctx, conn, name, s.Publication, end); err != nil || found {
				return false, err
			}
		}
	}
	return true, nil
}

// events reports whether a slot would send rows that were committed before end. It looks at
// a temporary copy.
func events(ctx context.Context, conn *pgx.Conn, slot, publication string, end cdc.LSN) (found bool, err error) {
	copied := fmt.Sprintf("walpost_peek_%d", conn.PgConn().PID())
	if _, err := conn.Exec(ctx, "SELECT pg_copy_logical_replication_slot($1, $2, temporary => true)", slot, copied); err != nil {
		return false, fmt.Errorf("copy slot %q: %w", slot, err)
	}
	const peek = `SELECT EXISTS (SELECT FROM pg_logical_slot_peek_binary_changes($1, $2::text::pg_lsn, NULL, 'proto_version', '1', 'publication_names', $3) WHERE get_byte(data, 0) = $4)`
	if err := conn.QueryRow(ctx, peek, copied, end.String(), pgx.Identifier{publication}.Sanitize(), int(pgoutput.KindInsert)).Scan(&found); err != nil {
		return false, fmt.Errorf("look for events of slot %q: %w", slot, err)
	}
	if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", copied); err != nil {
		return false, fmt.Errorf("drop the copy of slot %q: %w", slot, err)
	}
	return found, nil
}
