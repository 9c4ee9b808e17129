package replay

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// picky refuses records at once or later, as their topics say.
type picky struct{}

func (picky) Flush(context.Context) error { return nil }

func (picky) Produce(_ context.Context, rec *cdc.Record, done func(*cdc.Record, error)) error {
	switch refusal := cdc.Poison(cdc.PoisonRefused, "no"); rec.Topic {
	case "t.n":
		return refusal
	case "t.l":
		done(rec, refusal)
	default:
		done(rec, nil)
	}
	return nil
}

// away takes nothing.
type away struct{ picky }

func (away) Produce(context.Context, *cdc.Record, func(*cdc.Record, error)) error {
	return context.Canceled
}

// What the sink below has not taken, as when a replay is stopped while a topic is missing, is not
// counted until it comes again and is taken.
func TestSinkCountsWhatIsTaken(t *testing.T) {
	r := NewRoute(t.Context(), Plan{}, nil, plain)
	give := func(below cdc.Sink, ordinal int64) {
		t.Helper()
		ev := event("well", "x", time.Now())
		ev.Transaction.CommitLSN, ev.Ordinal = 5, ordinal
		rec, err := r.Route(ev)
		if err != nil {
			t.Fatal(err)
		}
		_ = NewSink(below, r).Produce(t.Context(), rec, func(rec *cdc.Record, _ error) { rec.Free() })
	}
	give(picky{}, 1)
	give(away{}, 2)
	if c := r.Counts(); c.Published != 1 || c.Topics["t.w"] != 1 {
		t.Errorf("counted %+v, want what was taken", c)
	}
	give(picky{}, 1) // which comes again
	give(away{}, 2)
	give(picky{}, 2)
	if c := r.Counts(); c.Published != 2 || c.Topics["t.w"] != 2 {
		t.Errorf("counted %+v, want both, once each", c)
	}
}

// What is refused is counted once, however often it comes, and what a broker has refused is
// handed over once.
func TestSinkCountsOnce(t *testing.T) {
	r := NewRoute(t.Context(), Plan{}, nil, plain)
	failed := 0
	for range 3 {
		sink := NewSink(picky{}, r)
		for i, key := range []string{"now", "later", "well", "poison"} {
			ev := event(key, "x", time.Now())
			ev.Transaction.CommitLSN, ev.Ordinal = 5, int64(i+1)
			rec, err := r.Route(ev)
			if errors.Is(err, cdc.ErrSkip) {
				continue
			}
			rec.CommitLSN, rec.Ordinal = 5, ev.Ordinal
			err = errors.Join(err, sink.Produce(t.Context(), rec, func(rec *cdc.Record, err error) {
				if err != nil {
					failed++
				}
				rec.Free()
			}))
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if c := r.Counts(); c.Published != 1 || c.Poison != 3 || c.Topics["t.w"] != 1 || c.Topics["t.l"] != 0 || r.Refused() != 1 || failed != 1 {
		t.Errorf("counted %+v, %d refused, %d failed", c, r.Refused(), failed)
	}
}
