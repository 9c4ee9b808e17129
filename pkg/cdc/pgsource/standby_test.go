package pgsource

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/test/harness"
)

// opening is an Open that waits for the slot.
type opening struct {
	src    *Source
	ended  chan error
	stream cdc.Stream
}

func openLater(t *testing.T, src *Source) *opening {
	ctx, cancel := context.WithCancel(t.Context())
	o := &opening{src: src, ended: make(chan error, 1)}
	go func() {
		var err error
		o.stream, err = src.Open(ctx, fromSlot)
		o.ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		if o.stream != nil {
			_ = o.stream.Close()
		}
	})
	return o
}

// until waits for what the source says of the slot.
func (o *opening) until(t *testing.T, what string, cond func(standby bool, healthy error) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		standby, _ := o.src.Standby()
		err := o.src.Healthy()
		if cond(standby, err) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("standby %t, %v, want %s", standby, err, what)
		}
	}
}

func (o *opening) opens(t *testing.T) {
	t.Helper()
	if err := <-o.ended; err != nil {
		t.Fatal(err)
	}
	if standby, _ := o.src.Standby(); standby || o.src.Healthy() != nil {
		t.Errorf("standby %t, %v of an open stream", standby, o.src.Healthy())
	}
}

// Who waits behind another walpost is a standby, and forgets what it has seen of the slot.
// Who waits for anything else is none: nobody publishes meanwhile.
func TestStandby(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	cfg.WaitForSlot = true
	write(1, 1)
	first := newSource(t, cfg)
	st, err := first.Open(t.Context(), fromSlot)
	if err != nil {
		t.Fatal(err)
	}
	second := newSource(t, cfg)
	second.metrics.observe(&SlotState{Retained: 7, Unconfirmed: 5, WALStatus: "lost"})
	o := openLater(t, second)
	o.until(t, "a standby", func(standby bool, healthy error) bool { return standby && healthy == nil })
	if got := testutil.ToFloat64(second.metrics.retained) + testutil.ToFloat64(second.metrics.lag); got != 0 {
		t.Errorf("a standby says of the slot what another sees now: %v", got)
	}
	_ = st.Close()
	o.opens(t)
	if _, last := second.Standby(); time.Since(last) > 10*time.Second {
		t.Errorf("it was a standby until %s", last)
	}

	// Its own session of before, of which the server knows yet.
	again := openLater(t, second)
	again.until(t, "its own session named", func(standby bool, err error) bool {
		return !standby && err != nil && strings.Contains(err.Error(), "an earlier session of this process")
	})
	_ = o.stream.Close()
	again.opens(t)
	_ = again.stream.Close()

	// Another program.
	other := db.Connect(t)
	harness.Occupy(t, db.DSN, cfg.Slot, "p")
	third := openLater(t, newSource(t, cfg))
	third.until(t, "the process that streams", func(standby bool, err error) bool {
		return !standby && err != nil && strings.Contains(err.Error(), "is in use by the server process")
	})
	if _, err := other.Exec(t.Context(), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", cfg.Slot); err != nil {
		t.Fatal(err)
	}
	third.opens(t)
}
