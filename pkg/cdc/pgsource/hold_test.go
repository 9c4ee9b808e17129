package pgsource

import (
	"context"
	"strings"
	"testing"
	"time"

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
