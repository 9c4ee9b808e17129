package checkpoint

import (
	"errors"
	"strings"
	"testing"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
	sqlfiles "github.com/walpost/walpost/sql"
)

func testSlot(t *testing.T, db envtest.Database) {
	checkpointtest.Run(t, func(t *testing.T) checkpointtest.Harness {
		w, slot := new(wire), envtest.Name(t)
		return checkpointtest.Harness{
			Open: func(t *testing.T) cdc.Store {
				s := openSlot(t, db.DSN, slot)
				w.attach(s.session)
				return s
			},
			Faults:  w.faults(),
			Confirm: func(t *testing.T) cdc.Position { return confirm(t, db, slot) },
		}
	})
}

func testSlotClosed(t *testing.T, db envtest.Database) {
	s := openSlot(t, db.DSN, "s")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}
	if _, err := s.Acquire(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("Acquire() after Close = %v, want %v", err, errClosed)
	}
}

func TestNewSlotConfig(t *testing.T) {
	_, err := NewSlot(SlotConfig{DSN: "port=none"})
	for _, want := range []string{"slot is empty", "port"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewSlot() = %v, want it to tell of the %s", err, want)
		}
	}
}

func openSlot(t *testing.T, dsn, slot string) *Slot {
	t.Helper()
	s, err := NewSlot(SlotConfig{DSN: dsn, Slot: slot})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// confirm makes the slot if need be, and moves it to the end of WAL.
func confirm(t *testing.T, db envtest.Database, slot string) cdc.Position {
	t.Helper()
	apply(t, db, sqlfiles.Names{Slot: slot}, sqlfiles.Slot)
	db.Exec(t, `SELECT pg_logical_emit_message(true, 'test', 'moves the end of WAL')`)
	conn := db.Connect(t)
	lsn, err := cdc.ParseLSN(query[string](t, conn,
		`SELECT end_lsn::text FROM pg_replication_slot_advance($1, pg_current_wal_flush_lsn())`, slot))
	if err != nil {
		t.Fatal(err)
	}
	return cdc.Position{
		SystemID: uint64(query[int64](t, conn, `SELECT system_identifier FROM pg_control_system()`)),
		Timeline: uint32(query[int32](t, conn, `SELECT timeline_id FROM pg_control_checkpoint()`)),
		LSN:      lsn,
	}
}
