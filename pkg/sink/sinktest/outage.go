package sinktest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// fill hands records over, numbered from 0, until the sink is full, and returns
// their number. One record before the outage makes the sink know the topic.
func (r *rig) fill(t *testing.T) int {
	t.Helper()
	if r.Outage == nil {
		t.Skip("no outage to be had")
	}
	r.produce(t, r.numbered(0))
	r.flush(t)
	r.Outage(true)
	for n := 1; n <= r.Full; n++ {
		ctx, cancel := context.WithTimeout(t.Context(), short)
		rec := r.numbered(n)
		err := r.Sink.Produce(ctx, rec, r.done)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			if got := r.answered(rec); got != nil {
				t.Errorf("done was called with %v for a record that was not taken", got)
			}
			return n
		}
		if err != nil {
			t.Fatalf("Produce() = %v", err)
		}
	}
	t.Fatalf("the sink took %d records during an outage, want fewer", r.Full)
	return 0
}

func (r *rig) numbered(n int) *cdc.Record {
	return r.record(fmt.Sprint("key", n%5), fmt.Sprint(n, " ", strings.Repeat("x", 1000)))
}

// recover ends the outage, also if the test fails before.
func (r *rig) recover(t *testing.T, n int) {
	t.Helper()
	r.Outage(false)
	r.flush(t)
	r.checkOrder(t, n)
}

func testFullContext(t *testing.T, r *rig) {
	n := r.fill(t)
	cause := errors.New("told to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(short, func() { cancel(cause) })
	if err := r.Sink.Produce(ctx, r.numbered(n), r.done); !errors.Is(err, cause) {
		t.Errorf("Produce() = %v, want the context's cause", err)
	}
	r.recover(t, n)
}

func testFullSpace(t *testing.T, r *rig) {
	n := r.fill(t)
	produced := make(chan error, 1)
	ctx := within(t)
	go func() { produced <- r.Sink.Produce(ctx, r.numbered(n), r.done) }()
	select {
	case err := <-produced:
		t.Errorf("Produce() = %v while the sink is full", err)
	case <-time.After(short):
	}
	r.Outage(false)
	if err := <-produced; err != nil {
		t.Fatalf("Produce() = %v", err)
	}
	r.recover(t, n+1)
}

func testFlushContext(t *testing.T, r *rig) {
	n := r.fill(t)
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	if err := r.Sink.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush() = %v, want deadline exceeded", err)
	}
	r.recover(t, n)
}

func testOutage(t *testing.T, r *rig) {
	n := r.fill(t)
	r.Outage(false)
	for i := n; i < 2*n; i++ {
		r.produce(t, r.numbered(i))
	}
	r.recover(t, 2*n)
}

func testRefusal(t *testing.T, r *rig) {
	if r.Refuse == nil {
		t.Skip("no refusal to be had")
	}
	r.produce(t, r.record("k", "before"))
	r.flush(t)
	r.Refuse()
	rec := r.record("k", "refused")
	r.produce(t, rec)
	r.flush(t)
	got := r.answered(rec)
	var poison *cdc.PoisonError
	if len(got) != 1 || !errors.As(got[0], &poison) || poison.Reason != cdc.PoisonRefused {
		t.Fatalf("done was called with %v, want once, with poison for reason %s", got, cdc.PoisonRefused)
	}
	for range 3 {
		after := r.record("k", "after")
		if err := r.Sink.Produce(within(t), after, r.done); err == nil || errors.As(err, &poison) {
			t.Errorf("Produce() after a refusal = %v, want an error that is not poison", err)
		}
		if got := r.answered(after); got != nil {
			t.Errorf("done was called with %v for a record that was not taken", got)
		}
	}
	r.flush(t)
	if got := string(r.only(t).Value); got != "before" {
		t.Errorf("value = %q, want before", got)
	}
}
