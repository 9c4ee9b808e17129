package pgsource

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// What cdc.Stream promises, tried on a real server, streaming and pulling.
func TestStreamContract(t *testing.T) {
	for name, above := range map[string]int64{"Streaming": -1, "Pulling": 1} {
		t.Run(name, func(t *testing.T) {
			t.Run("ConfirmIsWithheldUntilReceived", func(t *testing.T) { testConfirmWithheld(t, newTrial(t, above)) })
			t.Run("ConfirmNeverGoesBack", func(t *testing.T) { testConfirmNeverGoesBack(t, newTrial(t, above)) })
			t.Run("StopBeforeRun", func(t *testing.T) { testStopBeforeRun(t, newTrial(t, above)) })
			t.Run("CloseWithoutRun", func(t *testing.T) { testCloseWithoutRun(t, newTrial(t, above)) })
		})
	}
}

// trial is a source with a slot and ten rows behind it.
type trial struct {
	src   *Source
	db    envtest.Database
	slot  string
	write func(first, last int)
}

func newTrial(t *testing.T, above int64) trial {
	t.Helper()
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	cfg.PullAbove = above
	write(1, 10)
	return trial{newSource(t, cfg), db, cfg.Slot, write}
}

// fromSlot is a position for a first start.
func fromSlot(context.Context, cdc.Position) (cdc.Position, error) { return cdc.Position{}, nil }

func testConfirmWithheld(t *testing.T, tr trial) {
	r := start(t, tr.src, cdc.Position{}, &run{})
	r.await(10)
	r.st.Confirm(1 << 60)
	tr.db.Exec(t, "CREATE TABLE more (n int)") // WAL beyond what was received
	r.st.Stop()
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Errorf("Run() = %v", err)
	}
	_ = r.st.Close()
	tr.write(11, 20)
	r = start(t, tr.src, cdc.Position{}, &run{})
	if got := r.await(10); got[0] != "11" {
		t.Errorf("the first row is %s, want 11: the slot was confirmed beyond what was received", got[0])
	}
	r.stop()
}

func testConfirmNeverGoesBack(t *testing.T, tr trial) {
	r := start(t, tr.src, cdc.Position{}, &run{})
	r.await(10)
	_, at := r.seen()
	var all sync.WaitGroup
	for n := range 10 {
		all.Go(func() { r.st.Confirm(at - cdc.LSN(n)) })
	}
	all.Wait()
	r.st.Confirm(1)
	r.stop()
	checkConfirmed(t, tr.db, tr.slot, at)
}

func testStopBeforeRun(t *testing.T, tr trial) {
	st, err := tr.src.Open(t.Context(), fromSlot)
	if err != nil {
		t.Fatal(err)
	}
	st.Stop()
	st.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	r := &run{}
	if err := st.Run(ctx, r); err != nil {
		t.Errorf("Run() = %v", err)
	}
	if rows, _ := r.seen(); len(rows) > 0 {
		t.Errorf("%d rows were handed over after Stop", len(rows))
	}
	_ = st.Close()
}

func testCloseWithoutRun(t *testing.T, tr trial) {
	for range 2 { // the second Open needs the slot
		st, err := tr.src.Open(t.Context(), fromSlot)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
	r := start(t, tr.src, cdc.Position{}, &run{})
	r.await(10)
	r.stop()
}
