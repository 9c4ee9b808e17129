package cdc_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/sink/sinktest"
)

// A stop inside a transaction never confirms it, and the next process goes on
// where it was: nothing of it is repeated.
func TestPipelineStopsInsideTransaction(t *testing.T) {
	for _, drained := range []bool{true, false} {
		t.Run(map[bool]string{true: "Drained", false: "NotDrained"}[drained], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, script[0], scriptTx{keys: []string{"a", "b", "c", "d", "a", "b"}, end: 100}, scriptTx{keys: []string{"a"}, end: 110})
				stuck := true
				r.outcome = func(rec *cdc.Record) sinktest.Outcome {
					if stuck && rec.Ordinal > 3 && rec.CommitLSN == 99 {
						if !drained {
							return sinktest.Outcome{Lost: true, Silent: true}
						}
						time.Sleep(10 * time.Second)
					}
					return sinktest.Outcome{}
				}
				r.inFlight, r.drain = 1, 15*time.Second
				err := r.run(time.Second)
				if (err == nil) != drained {
					t.Fatalf("Run() = %v, drained %v", err, drained)
				}
				if got := r.server.confirmed; got != 10 {
					t.Errorf("confirmed = %s, want 0/A", got)
				}
				stuck = false
				if err := r.run(time.Minute); err != nil {
					t.Fatal(err)
				}
				duplicates := r.check()
				if drained && duplicates != 0 || !drained && duplicates != 3 {
					t.Errorf("%d duplicates", duplicates)
				}
				if got := r.store.Checkpoint().Position; got.LSN != 110 || got.Partial != (cdc.Partial{}) {
					t.Errorf("checkpoint = %+v, want 0/6E and nothing partial", got)
				}
			})
		})
	}
}

// A record that the sink gave up is not counted as delivered, though it was
// handed over: the next process publishes it.
func TestPipelineGivesUpInsideTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errBoom := errors.New("boom")
		r := newRig(t, scriptTx{keys: []string{"a", "b"}, end: 100})
		r.outcome = func(rec *cdc.Record) sinktest.Outcome {
			if string(rec.Key) == "b" {
				return sinktest.Outcome{Lost: true, Err: errBoom}
			}
			return sinktest.Outcome{}
		}
		r.server.hold = "0/64" // the commit does not come
		if err := r.run(time.Minute); !errors.Is(err, errBoom) {
			t.Fatalf("Run() = %v, want %v", err, errBoom)
		}
		r.outcome, r.server.hold = nil, ""
		if err := r.run(time.Minute); err != nil {
			t.Fatal(err)
		}
		r.check()
	})
}

// A transaction that was published in part and is gone from the server's history
// is not passed over in silence.
func TestPipelineTransactionVanished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script[0], scriptTx{keys: []string{"a", "b"}, end: 100})
		r.server.breaks["b/0/64/2"] = true
		r.server.onBreak = func() { r.server.txs[1] = scriptTx{keys: []string{"x"}, end: 120} }
		err := r.run(time.Minute)
		var refused *cdc.RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "did not come again") {
			t.Errorf("Run() = %v, want a refusal", err)
		}
	})
}

// A cut transaction that comes again with other rows, as with other tables in the
// configuration, is published again as a whole: a count of rows would pass over some
// that were never published.
func TestPipelineTransactionComesWithOtherRows(t *testing.T) {
	other := scriptTx{keys: []string{"x", "a", "b"}, end: 100}
	for _, restart := range []bool{true, false} {
		t.Run(map[bool]string{true: "NextProcess", false: "SameProcess"}[restart], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, script[0], scriptTx{keys: []string{"a", "b"}, end: 100})
				if restart {
					r.server.hold = "0/64" // the commit does not come
					if err := r.run(time.Minute); err != nil {
						t.Fatal(err)
					}
					if got, want := r.store.Checkpoint().Partial, (cdc.Partial{CommitLSN: 99, Rows: 2, LastID: "b/0/64/2"}); got != want {
						t.Fatalf("saved %+v, want %+v", got, want)
					}
					r.server.hold, r.server.txs[1] = "", other
				} else {
					r.server.breaks["0/64"] = true
					r.server.onBreak = func() { r.server.txs[1] = other }
				}
				if err := r.run(time.Minute); err != nil {
					t.Fatal(err)
				}
				got := r.arrived()
				for key, want := range map[string]string{"x": "x/0/64/1", "a": "a/0/64/2", "b": "b/0/64/3"} {
					if !slices.Contains(got[key], want) {
						t.Errorf("key %s: got %v, want %s among them", key, got[key], want)
					}
				}
				if cp := r.store.Checkpoint(); cp.LSN != 100 || cp.Partial != (cdc.Partial{}) {
					t.Errorf("checkpoint = %+v, want 0/64 and nothing partial", cp)
				}
			})
		})
	}
}
