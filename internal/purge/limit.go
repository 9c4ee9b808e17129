package purge

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgoutput"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// limit is the least that the slots and their bookmarks have left behind, and whose it is.
func (cfg Config) limit(ctx context.Context, conn *pgx.Conn) (lsn cdc.LSN, whose string, err error) {
	take := func(at cdc.LSN, who string) {
		if whose == "" || at < lsn {
			lsn, whose = at, who
		}
	}
	for _, s := range cfg.Slots {
		name := s.Name
		slot, err := pgsource.ReadSlot(ctx, conn, name)
		switch {
		case err != nil:
			return 0, "", err
		case slot == nil:
			return 0, "", cdc.Refuse("run walpost init, or set postgres.slot: nothing tells what is published", "slot %q does not exist", name)
		}
		if err := pgsource.CheckSlot(name, slot); err != nil {
			return 0, "", err
		}
		take(slot.ConfirmedFlush, fmt.Sprintf("slot %q", name))
		kept, err := bookmark.List(ctx, conn, name)
		if err != nil {
			return 0, "", err
		}
		for _, b := range kept {
			if b.Usable {
				take(b.LSN, fmt.Sprintf("bookmark %q", b.Name))
			}
		}
	}
	return lsn, whose, nil
}

// maxPeek is how much WAL is looked through for events.
const maxPeek = 16 << 20

// passed reports whether no event lies between where each slot and bookmark stands and end:
// a position without events behind it is not saved at once.
func (cfg Config) passed(ctx context.Context, conn *pgx.Conn, end cdc.LSN) (bool, error) {
	for _, s := range cfg.Slots {
		slot, err := pgsource.ReadSlot(ctx, conn, s.Name)
		if err != nil || slot == nil {
			return false, err
		}
		kept, err := bookmark.List(ctx, conn, s.Name)
		if err != nil {
			return false, err
		}
		at := map[string]cdc.LSN{s.Name: slot.ConfirmedFlush}
		for _, b := range kept {
			if b.Usable {
				at[b.Slot] = b.LSN
			}
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
