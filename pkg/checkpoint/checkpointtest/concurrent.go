package checkpointtest

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/walpost/walpost/pkg/cdc"
)

func testConcurrentSaves(t *testing.T, h Harness) {
	s := h.Open(t)
	acquire(t, s)
	var wg sync.WaitGroup
	for i := range cdc.LSN(20) {
		wg.Go(func() {
			if err := s.Save(t.Context(), at(100+i)); err != nil {
				t.Errorf("Save() = %v", err)
			}
			if _, err := s.Load(t.Context()); err != nil {
				t.Errorf("Load() = %v", err)
			}
		})
	}
	wg.Wait()
	wantStored(t, h, at(119))
}

// What Acquire returned is what stays, whatever the predecessor is doing, and holds
// whatever that was told is saved.
func testFencedWhileSaving(t *testing.T, h Harness) {
	first, second := h.Open(t), h.Open(t)
	for round := range cdc.LSN(10) {
		acquire(t, first)
		start := make(chan struct{})
		var saved atomic.Uint64 // the highest
		var wg sync.WaitGroup
		for worker := range cdc.LSN(2) {
			wg.Go(func() {
				<-start
				for i := range cdc.LSN(20) {
					lsn := 1 + round*100 + 2*i + worker
					err := first.Save(t.Context(), at(lsn))
					if errors.Is(err, cdc.ErrFenced) || err != nil && h.Overtaken != nil && h.Overtaken(err) {
						return
					}
					if err != nil {
						t.Errorf("Save() = %v, want nil or ErrFenced", err)
						return
					}
					for last := saved.Load(); uint64(lsn) > last && !saved.CompareAndSwap(last, uint64(lsn)); last = saved.Load() {
					}
				}
			})
		}
		close(start)
		got := acquire(t, second).Position
		wg.Wait()
		wantStored(t, h, got)
		if want := cdc.LSN(saved.Load()); got.LSN < want {
			t.Errorf("Acquire() = %s, and the predecessor had saved %s", got.LSN, want)
		}
	}
}
