package pgsource

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// A stream that does not run yet keeps the lock on the slot, however long that takes: the
// dead letters may be read through an outage of the sink meanwhile.
func TestOwnedBeforeRun(t *testing.T) {
	st, db, cfg := openImpatient(t)
	other := db.Connect(t)
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var locked bool
		if err := other.QueryRow(t.Context(), "SELECT pg_try_advisory_lock($1)", lockKey(cfg.Slot)).Scan(&locked); err != nil {
			t.Fatal(err)
		}
		if locked {
			t.Fatal("another session has the lock on the slot of an open stream")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := &collector{want: 1, full: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- st.Run(ctx, c) }()
	select {
	case <-c.full:
		cancel()
	case err := <-ended:
		t.Fatalf("Run() = %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run() = %v", err)
	}
	cancel()
}

// A session that was lost before Run is what Run says, and nothing is handed over.
func TestLostBeforeRun(t *testing.T) {
	st, db, _ := openImpatient(t)
	db.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
	<-st.(interface{ Lost() <-chan struct{} }).Lost() // as the next look at the session finds
	c := &collector{}
	if err := st.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "session that owns the slot") {
		t.Errorf("Run() = %v, want the loss of the session that owns the slot", err)
	}
	if len(c.done) > 0 {
		t.Errorf("%v was handed over", c.done)
	}
}

// openImpatient opens a stream of one row from a server that ends what it has not heard of
// for a second.
func openImpatient(t *testing.T) (cdc.Stream, envtest.Database, Config) {
	t.Helper()
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	cfg.StatusInterval = 0
	db.Exec(t, "ALTER DATABASE "+db.Name+" SET wal_sender_timeout = '1s'")
	write(1, 1)
	st, err := newSource(t, cfg).Open(t.Context(), fromSlot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st, db, cfg
}

// A slot that nobody reads yet, as while a snapshot is published, is not dropped for being idle.
func TestHeldSlotIsNotIdle(t *testing.T) {
	const limit = 4 * time.Second
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: "18", Settings: map[string]string{"idle_replication_slot_timeout": limit.String()}})
	for _, failover := range []Failover{FailoverOn, FailoverOff} {
		t.Run(fmt.Sprint(failover), func(t *testing.T) {
			db := envtest.NewDatabaseOn(t, pg)
			cfg, _, write := outbox(t, db)
			db.Exec(t, "SELECT pg_drop_replication_slot('"+cfg.Slot+"')")
			cfg.CreateSlot, cfg.Failover = true, failover
			st, err := open(t, cfg)
			if err != nil {
				t.Fatal(err)
			}
			conn := db.Connect(t)
			for begun := time.Now(); time.Since(begun) < 2*limit; time.Sleep(200 * time.Millisecond) {
				db.Exec(t, "CHECKPOINT") // which drops slots
				slot, err := ReadSlot(t.Context(), conn, cfg.Slot)
				if err != nil || slot.Lost() || slot.Failover != (failover == FailoverOn) {
					t.Fatalf("slot %+v, %v after %s", slot, err, time.Since(begun))
				}
			}
			write(1, 3)
			ctx, cancel := context.WithCancel(t.Context())
			r := &run{t: t, st: st, cancel: cancel, ended: make(chan error, 1)}
			go func() { r.ended <- st.Run(ctx, r) }()
			r.await(3)
			r.stop()
		})
	}
}
