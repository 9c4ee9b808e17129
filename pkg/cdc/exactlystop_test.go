package cdc_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
)

// A stop inside a transaction commits what was handed over, and the next process
// goes on behind it.
func TestExactlyOnceStops(t *testing.T) {
	for stop := 5 * time.Millisecond; stop < 100*time.Millisecond; stop += 7 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			r := newExactRig(t, script...)
			if err := r.run(stop); err != nil {
				t.Fatalf("Run() = %v", err)
			}
			if err := r.run(time.Minute); err != nil {
				t.Fatalf("Run() after a stop = %v", err)
			}
			r.check()
		})
	}
}

// A stop waits for the commit that is under way.
func TestExactlyOnceStopsInsideCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, script...)
		r.cluster.delay = time.Second
		if err := r.run(1500 * time.Millisecond); err != nil {
			t.Fatalf("Run() = %v", err)
		}
		if got := r.cluster.committed(); got != 3 {
			t.Errorf("%d transactions, want 3: the first position, the one that was under way, and the last", got)
		}
		r.cluster.delay = 0
		if err := r.run(time.Minute); err != nil {
			t.Fatal(err)
		}
		r.check()
	})
}

// A cluster answers the same to who was taken over from and to whose transaction was aborted
// for its age. Only the first is a clean stop: nobody else publishes what the second had.
func TestExactlyOnceStopsAborted(t *testing.T) {
	for name, overtake := range map[string]func(*cluster){
		"ForItsAge":                nil,
		"ByAnother":                (*cluster).overtake,
		"ByAnotherThatSaysSoLater": func(c *cluster) { time.AfterFunc(2*time.Second, c.overtake) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newExactRig(t, script...)
				r.cluster.delay = time.Second
				_, stop := r.start()
				time.Sleep(1500 * time.Millisecond) // inside a commit
				r.cluster.abort()
				if overtake != nil {
					overtake(r.cluster)
				}
				if err := stop(); (err == nil) != (overtake != nil) {
					t.Errorf("Run() = %v, taken over: %t", err, overtake != nil)
				}
				r.cluster.delay = 0
				if err := r.run(time.Minute); err != nil {
					t.Fatal(err)
				}
				r.check()
			})
		})
	}
}

// What comes before an event that the sink must wait for is committed first, and the event
// comes once, whether the process waits for it or the next.
func TestExactlyOnceCommitsBeforeWait(t *testing.T) {
	for name, restart := range map[string]bool{"Lives": false, "Restarts": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newExactRig(t, script[0], scriptTx{keys: []string{"d", "a", "absent", "a"}, end: 30})
				r.server.pace = 0 // all in one Kafka transaction
				r.cluster.absent.Store(true)
				p, stop := r.start()
				time.Sleep(10 * time.Minute) // longer than a commit may take
				want := cdc.Partial{CommitLSN: 29, Rows: 2, LastID: "a/0/1E/2"}
				if cp := r.cluster.Checkpoint(); cp.LSN != 10 || cp.Partial != want || len(r.cluster.records()) != 5 {
					t.Errorf("%d records are seen, checkpoint %+v, want 5 and %+v", len(r.cluster.records()), cp, want)
				}
				if st := p.Status(); st.Unconfirmed != 1 {
					t.Errorf("%d events are unconfirmed, want 1", st.Unconfirmed)
				}
				if restart {
					if err := stop(); err != nil {
						t.Fatalf("Run() = %v", err)
					}
					p, stop = r.start()
				}
				r.cluster.absent.Store(false)
				time.Sleep(time.Minute)
				epoch := int64(1)
				if restart {
					epoch++
				}
				if st, cp := p.Status(), r.cluster.Checkpoint(); st.Unconfirmed != 0 || cp.Epoch != epoch {
					t.Errorf("%d events are unconfirmed in epoch %d, want none in %d: no transaction is lost", st.Unconfirmed, cp.Epoch, epoch)
				}
				if err := stop(); err != nil {
					t.Fatalf("Run() = %v", err)
				}
				r.check()
			})
		})
	}
}

// A stop while nothing streams, after a transaction was spoilt, has nothing left to do.
func TestExactlyOnceStopsAfterSpoilt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, script...)
		r.cluster.setFault(func(_ int, o op) checkpointtest.Fault {
			if o == opSave && len(r.cluster.seen) > 1 {
				r.server.refuse = errBroken // and Postgres is away
				return checkpointtest.Lost
			}
			return checkpointtest.None
		})
		if err := r.run(time.Minute); err != nil {
			t.Errorf("Run() = %v", err)
		}
		r.cluster.heal()
		r.server.refuse = nil
		if err := r.run(time.Minute); err != nil {
			t.Fatal(err)
		}
		r.check()
	})
}

// While a commit hangs nothing counts as acknowledged.
func TestExactlyOnceCommitHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, script...)
		p, stop := r.start()
		time.Sleep(time.Second)
		r.cluster.setFault(func(_ int, o op) checkpointtest.Fault {
			if o == opSave {
				return checkpointtest.Silent
			}
			return checkpointtest.None
		})
		r.server.commit(scriptTx{keys: []string{"a"}, end: 50})
		time.Sleep(30 * time.Second)
		if st := p.Status(); st.Acknowledged != 40 && st.Acknowledged != 30 || st.Unconfirmed != 1 || st.Lag(time.Now()) < 29*time.Second {
			t.Errorf("status = %+v, lag %s, want one event unacknowledged for 30 s", st, st.Lag(time.Now()))
		}
		begun := time.Now()
		if err := stop(); err == nil {
			t.Error("Run() = nil, want that the stop was not clean")
		}
		if took := time.Since(begun); took > 11*time.Second {
			t.Errorf("the stop took %s, want at most the drain timeout", took)
		}
		r.cluster.heal()
		if err := r.run(time.Minute); err != nil {
			t.Fatal(err)
		}
		r.check()
	})
}

// What lies before a poison row is committed, and nothing else.
func TestExactlyOncePoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, script[0], scriptTx{keys: []string{"d", "poison", "e"}, end: 30})
		var poison *cdc.PoisonError
		if err := r.run(time.Minute); !errors.As(err, &poison) {
			t.Fatalf("Run() = %v, want a PoisonError", err)
		}
		want := cdc.Partial{CommitLSN: 29, Rows: 1, LastID: "d/0/1E/1"}
		if cp := r.cluster.Checkpoint(); cp.LSN != 10 || cp.Partial != want {
			t.Errorf("checkpoint = %+v, want 0/A and %+v", cp, want)
		}
		if got := len(r.cluster.records()); got != 4 {
			t.Errorf("%d records are seen, want 4", got)
		}
	})
}

// A record that the cluster refuses for good ends the pipeline with its identity,
// and its transaction is not seen.
func TestExactlyOnceRefusedRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, script[0], scriptTx{keys: []string{"d", "refused"}, end: 30})
		r.server.pace = 0
		var poison *cdc.PoisonError
		if err := r.run(time.Minute); !errors.As(err, &poison) || poison.CommitLSN != 29 || poison.Ordinal != 2 {
			t.Fatalf("Run() = %v, want a PoisonError of row 2 of 0/1D", err)
		}
		if got := len(r.cluster.records()); got > 3 {
			t.Errorf("%d records are seen, want none of the second transaction", got)
		}
	})
}

// A cut transaction that comes again with other rows is refused: a count of rows
// means nothing then, and to publish it again would repeat some.
func TestExactlyOnceOtherRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, scriptTx{keys: []string{"a", "b"}, end: 100})
		r.server.hold = "0/64" // the commit does not come
		if err := r.run(time.Minute); err != nil {
			t.Fatal(err)
		}
		r.server.hold, r.server.txs[0] = "", scriptTx{keys: []string{"x", "a", "b"}, end: 100}
		var refused *cdc.RefusedError
		if err := r.run(time.Minute); !errors.As(err, &refused) || refused.Hint == "" {
			t.Errorf("Run() = %v, want a refusal with a hint", err)
		}
		if got := len(r.cluster.records()); got != 2 {
			t.Errorf("%d records are seen, want 2", got)
		}
	})
}
