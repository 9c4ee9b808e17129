package cdc

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// FuzzTracker checks the tracker against a model: after every step the
// watermark must be the end of the longest delivered prefix, and what is held
// the events behind it.
func FuzzTracker(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) {
		type model struct {
			left, events int
			end          LSN
		}
		var (
			rng  = rand.New(rand.NewPCG(seed, 0))
			tr   = NewTracker(0, 1<<30)
			all  []*model
			open *Tx
			last *model
			acks []func()
			lsn  LSN
		)
		tr.limit = 4
		for range 200 {
			switch n := rng.IntN(6); {
			case n == 0 && open == nil:
				open, last = tr.Begin(Transaction{}), &model{}
				all = append(all, last)
			case n == 1 && open != nil:
				if err := open.Add(t.Context()); err != nil {
					t.Fatal(err)
				}
				last.left++
				last.events++
				tx, m := open, last
				acks = append(acks, func() { tx.Ack(); m.left-- })
			case n == 2 && open != nil:
				lsn++
				open.Commit(lsn)
				last.end, open = lsn, nil
			case n == 3 && len(acks) > 0:
				i := rng.IntN(len(acks))
				acks[i]()
				acks = slices.Delete(acks, i, i+1)
			case n == 4 && open == nil:
				lsn++
				tr.Idle(lsn)
				all = append(all, &model{end: lsn})
			case n == 5 && open != nil:
				if err := open.Add(t.Context()); err != nil {
					t.Fatal(err)
				}
				open.Withdraw()
			}
			var want LSN
			held, stuck := 0, false
			for _, m := range all {
				stuck = stuck || m.end == 0 || m.left > 0
				if stuck {
					held += m.events
				} else {
					want = max(want, m.end)
				}
			}
			if got, _ := tr.Watermark(); got != want {
				t.Fatalf("Watermark() = %s, want %s", got, want)
			}
			if got := tr.Held(); got != held {
				t.Fatalf("Held() = %d, want %d", got, held)
			}
		}
	})
}

// A stuck record must not let the delivered transactions behind it pile up.
func TestTrackerMerges(t *testing.T) {
	tr := NewTracker(0, 1<<30)
	stuck := addOne(t, tr)
	stuck.Commit(1)
	for lsn := LSN(2); lsn < 100_000; lsn++ {
		tx := addOne(t, tr)
		tx.Commit(lsn)
		tx.Ack()
	}
	if got := len(tr.queue) - tr.head; got > 2*minLimit {
		t.Errorf("queue holds %d transactions, want at most %d", got, 2*minLimit)
	}
	if got := cap(tr.queue); got > 8*minLimit {
		t.Errorf("queue has room for %d transactions, want at most %d", got, 8*minLimit)
	}
	stuck.Ack()
	if got, _ := tr.Watermark(); got != 99_999 {
		t.Errorf("Watermark() = %s, want %s", got, LSN(99_999))
	}
	if got := tr.Held(); got != 0 {
		t.Errorf("Held() = %d, want 0", got)
	}
}

func addOne(t testing.TB, tr *Tracker) *Tx {
	t.Helper()
	tx := tr.Begin(Transaction{})
	if err := tx.Add(context.Background()); err != nil {
		t.Fatal(err)
	}
	return tx
}

func TestTrackerWatermark(t *testing.T) {
	tr := NewTracker(5, 10)
	tr.Idle(7)
	tx := addOne(t, tr)
	tr.Idle(7) // the storm of keepalives while tx is open
	tx.Commit(9)
	tr.Idle(12)
	if mark, events := tr.Watermark(); mark != 7 || events != 0 {
		t.Errorf("before the ack: Watermark() = %s, %s, want 0/7, 0/0", mark, events)
	}
	tx.Ack()
	if mark, events := tr.Watermark(); mark != 12 || events != 9 {
		t.Errorf("after the ack: Watermark() = %s, %s, want 0/C, 0/9", mark, events)
	}
}

func TestTrackerOldest(t *testing.T) {
	tr := NewTracker(0, 10)
	if got := tr.Oldest(); !got.IsZero() {
		t.Errorf("Oldest() of an empty tracker = %s, want zero", got)
	}
	first, second := time.Unix(100, 0), time.Unix(200, 0)
	a := tr.Begin(Transaction{CommitTime: first})
	a.Commit(1)
	b := tr.Begin(Transaction{CommitTime: second})
	if got := tr.Oldest(); got != second {
		t.Errorf("Oldest() = %s, want %s", got, second)
	}
	b.Commit(2)
	if got := tr.Oldest(); !got.IsZero() {
		t.Errorf("Oldest() with nothing in flight = %s, want zero", got)
	}
}

// Beyond its limit the tracker waits for the oldest transaction, but one that
// is itself the oldest goes on: nothing else could make room for it.
func TestTrackerBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := NewTracker(0, 2)
		head := tr.Begin(Transaction{})
		for range 5 {
			if err := head.Add(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		head.Commit(1)
		next := tr.Begin(Transaction{})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errFull)
		defer cancel()
		if err := next.Add(ctx); !errors.Is(err, errFull) {
			t.Fatalf("Add() behind a full head = %v, want %v", err, errFull)
		}
		added := make(chan error)
		go func() { added <- next.Add(t.Context()) }()
		for range 5 {
			synctest.Wait()
			select {
			case <-added:
				t.Fatal("Add() returned while the head was not delivered")
			default:
			}
			head.Ack()
		}
		if err := <-added; err != nil {
			t.Fatalf("Add() after the head was delivered = %v", err)
		}
	})
}

var errFull = errors.New("full")

func TestTrackerAllocatesNothing(t *testing.T) {
	tr := NewTracker(0, 1<<20)
	lsn := LSN(0)
	round := func() {
		lsn++
		a, b := addOne(t, tr), addOne(t, tr)
		a.Commit(lsn)
		b.Commit(lsn)
		tr.Idle(lsn)
		b.Ack()
		a.Ack()
	}
	for range 2 * minLimit {
		round()
	}
	if got := testing.AllocsPerRun(1000, round); got != 0 {
		t.Errorf("allocations for two transactions = %v, want 0", got)
	}
}

// BenchmarkTrack is a transaction of one row.
func BenchmarkTrack(b *testing.B) {
	tr, lsn := NewTracker(0, 1<<20), LSN(0)
	b.ReportAllocs()
	for b.Loop() {
		lsn++
		tx := addOne(b, tr)
		tx.Commit(lsn)
		tx.Ack()
	}
}
