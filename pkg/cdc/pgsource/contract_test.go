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
			fresh := func(t *testing.T) (*Source, envtest.Database, string, func(int, int)) {
				t.Helper()
				db := envtest.NewDatabase(t)
				cfg, _, write := outbox(t, db)
				cfg.PullAbove = above
				src, err := New(cfg)
				if err != nil {
					t.Fatal(err)
				}
				return src, db, cfg.Slot, write
			}
			t.Run("ConfirmIsWithheldUntilReceived", func(t *testing.T) {
				src, db, slot, write := fresh(t)
				write(1, 10)
				r := start(t, src, cdc.Position{}, &run{})
				r.await(10)
				r.st.Confirm(1 << 60)
				db.Exec(t, "CREATE TABLE more (n int)") // WAL beyond what was received
				r.st.Stop()
				r.cancel()
				if err := <-r.ended; err != nil {
					t.Errorf("Run() = %v", err)
				}
				_ = r.st.Close()
				write(11, 20)
				r = start(t, src, cdc.Position{}, &run{})
				if got := r.await(10); got[0] != "11" {
					t.Errorf("the first row is %s, want 11: the slot was confirmed beyond what was received", got[0])
				}
				r.stop()
				checkConfirmed(t, db, slot, 1)
			})
			t.Run("ConfirmNeverGoesBack", func(t *testing.T) {
				src, db, slot, write := fresh(t)
				write(1, 10)
				r := start(t, src, cdc.Position{}, &run{})
				r.await(10)
				_, at := r.seen()
				var all sync.WaitGroup
				for n := range 10 {
					all.Go(func() { r.st.Confirm(at - cdc.LSN(n)) })
				}
				all.Wait()
				r.st.Confirm(1)
				r.stop()
				checkConfirmed(t, db, slot, at)
			})
			t.Run("StopBeforeRun", func(t *testing.T) {
				src, _, _, write := fresh(t)
				write(1, 10)
				st, err := src.Open(t.Context(), func(context.Context, cdc.Position) (cdc.Position, error) { return cdc.Position{}, nil })
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
			})
			t.Run("CloseWithoutRun", func(t *testing.T) {
				src, _, _, write := fresh(t)
				for range 2 { // the second Open needs the slot
					st, err := src.Open(t.Context(), func(context.Context, cdc.Position) (cdc.Position, error) { return cdc.Position{}, nil })
					if err != nil {
						t.Fatal(err)
					}
					if err := st.Close(); err != nil {
						t.Error(err)
					}
				}
				write(1, 10)
				r := start(t, src, cdc.Position{}, &run{})
				r.await(10)
				r.stop()
			})
		})
	}
}
