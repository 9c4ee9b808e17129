package cdc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
)

// exactRig is a pipeline between a scripted server and a cluster with transactions.
type exactRig struct {
	t       *testing.T
	cluster *cluster
	server  *server

	maxUnconfirmed int
}

// newExactRig paces the rows so that each is in a Kafka transaction of its own, and
// each source transaction in several.
func newExactRig(t *testing.T, txs ...scriptTx) *exactRig {
	c := newCluster()
	r := &exactRig{t: t, cluster: c, server: newServer(t, c, txs...)}
	r.server.pace = 10 * time.Millisecond
	return r
}

// start runs a process until stop is called, which returns how it ended.
func (r *exactRig) start() (p *cdc.Pipeline, stop func() error) {
	client := r.cluster.open()
	p = cdc.NewPipeline(cdc.Config{
		Source: r.server, Sink: client, Store: client, Route: route, Transactional: true,
		MaxUnconfirmedEvents: r.maxUnconfirmed,
		Logger:               slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	return p, func() error {
		cancel()
		err := <-ended
		client.answer(errors.New("closed"))
		return err
	}
}

// run runs a process for d.
func (r *exactRig) run(d time.Duration) error {
	_, stop := r.start()
	time.Sleep(d)
	return stop()
}

// wholeRun is run for long enough that all is committed before the stop.
func (r *exactRig) wholeRun() error {
	r.t.Helper()
	_, stop := r.start()
	time.Sleep(10 * time.Minute)
	if st := r.cluster.Checkpoint(); st.LSN < 30 {
		r.t.Errorf("checkpoint = %s before the stop, want at least 0/1E", st.LSN)
	}
	return stop()
}

// check wants each event to be seen once and in order, and nothing to be left.
func (r *exactRig) check() {
	r.t.Helper()
	want, got := map[string][]string{}, map[string][]string{}
	var end cdc.LSN
	for _, tx := range r.server.txs {
		for n, key := range tx.keys {
			want[key] = append(want[key], tx.event(n))
			end = tx.end
		}
	}
	for _, rec := range r.cluster.records() {
		got[string(rec.Key)] = append(got[string(rec.Key)], string(rec.Value))
	}
	if !maps.EqualFunc(got, want, slices.Equal) {
		r.t.Errorf("seen  %v\nwant %v", got, want)
	}
	if cp := r.cluster.Checkpoint(); cp.LSN < end || cp.Partial != (cdc.Partial{}) {
		r.t.Errorf("checkpoint = %+v, want at least %s and nothing partial", cp, end)
	}
}

var allFaults = map[string]checkpointtest.Fault{
	"Lost": checkpointtest.Lost, "Persisted": checkpointtest.Persisted,
	"Silent": checkpointtest.Silent, "PersistedSilent": checkpointtest.PersistedSilent,
}

// Each external call, in each moment, is lost, done but reported failed, or never
// answered. The living process goes on, and each event is seen once.
func TestExactlyOnceFaults(t *testing.T) {
	for name, fault := range allFaults {
		t.Run(name, func(t *testing.T) {
			calls := 0
			for at := 1; at == 1 || at <= calls; at++ {
				synctest.Test(t, func(t *testing.T) {
					r := newExactRig(t, script...)
					var hit op
					r.cluster.setFault(func(call int, o op) checkpointtest.Fault {
						calls = max(calls, call)
						if call != at {
							return checkpointtest.None
						}
						hit = o
						return fault
					})
					if err := r.wholeRun(); err != nil {
						t.Errorf("call %d, %s: Run() = %v", at, hit, err)
					}
					r.check()
					if t.Failed() {
						t.Fatalf("at call %d, %s", at, hit)
					}
				})
				calls = min(calls, 30) // what follows the fault's own recovery is not new
			}
			if calls < 15 {
				t.Errorf("%d calls: the test has shown little", calls)
			}
		})
	}
}

// The process dies in each moment: from some call on, which had its effect or not,
// nothing it does has one. The next process goes on, and each event is seen once.
func TestExactlyOnceCrashes(t *testing.T) {
	for name, last := range map[string]checkpointtest.Fault{"Before": checkpointtest.Silent, "After": checkpointtest.PersistedSilent} {
		t.Run(name, func(t *testing.T) {
			for at := 1; at <= 20; at++ {
				synctest.Test(t, func(t *testing.T) {
					r := newExactRig(t, script...)
					r.cluster.setFault(func(call int, _ op) checkpointtest.Fault {
						switch {
						case call < at:
							return checkpointtest.None
						case call == at:
							return last
						}
						return checkpointtest.Silent
					})
					_ = r.run(2 * time.Minute)
					r.cluster.heal()
					if err := r.run(2 * time.Minute); err != nil {
						t.Errorf("Run() after a crash at call %d = %v", at, err)
					}
					r.check()
				})
			}
		})
	}
}

// A stream that breaks, wherever it does, repeats nothing and loses nothing, and a
// transaction that is open meanwhile goes on.
func TestExactlyOnceReconnects(t *testing.T) {
	for _, pace := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond} {
		for _, at := range []string{"a/0/A/1", "b/0/A/2", "a/0/A/3", "0/A", "c/0/14/1", "a/0/1E/1", "d/0/1E/2", "0/1E"} {
			t.Run(fmt.Sprint(pace, strings.ReplaceAll(at, "/", "-")), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newExactRig(t, script...)
					r.server.pace, r.server.breaks[at] = pace, true
					if err := r.wholeRun(); err != nil {
						t.Fatalf("Run() = %v", err)
					}
					r.check()
					if got := r.cluster.Checkpoint(); got.Epoch != 1 {
						t.Errorf("epoch %d after a reconnect, want 1: it goes on from memory", got.Epoch)
					}
					if got := r.server.confirmed; got != 40 {
						t.Errorf("confirmed = %s, want 0/28", got)
					}
				})
			})
		}
	}
}

// What is in the open transaction when the stream breaks is committed though nothing
// comes after it.
func TestExactlyOnceBreaksAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, script[:3]...)
		r.server.pace, r.server.breaks["a/0/1E/1"] = 0, true
		r.server.onBreak = func() { r.server.txs = r.server.txs[:2] } // the event was never there
		_, stop := r.start()
		time.Sleep(time.Minute)
		if got := r.cluster.Checkpoint().LSN; got != 20 {
			t.Errorf("checkpoint = %s, want 0/14", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		r.check()
	})
}

// An event that comes alone is committed at once, and while nothing comes nothing
// is done.
func TestExactlyOnceLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, script...)
		r.server.pace = 0
		p, stop := r.start()
		time.Sleep(time.Second)
		before := r.cluster.committed()
		time.Sleep(time.Hour)
		if got := r.cluster.committed(); got != before {
			t.Errorf("%d transactions while nothing happened", got-before)
		}
		r.server.commit(scriptTx{keys: []string{"a"}, end: 50})
		time.Sleep(5 * time.Millisecond)
		if got := r.cluster.Checkpoint().LSN; got != 50 {
			t.Errorf("checkpoint = %s 5 ms after the event, want 0/32", got)
		}
		st := p.Status()
		if st.Unconfirmed != 0 || st.Acknowledged != 50 || !st.Oldest.IsZero() || time.Since(st.LastAck) > 5*time.Millisecond {
			t.Errorf("status = %+v, want all acknowledged", st)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// A predecessor commits once more after its successor has read the checkpoint, and
// before it is fenced: the successor starts behind that.
func TestExactlyOncePredecessorCommitsLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, script...)
		late := true
		r.cluster.setFault(func(_ int, o op) checkpointtest.Fault {
			if o == opAcquire && late {
				late = false
				r.cluster.cp.Position = cdc.Position{SystemID: 7, Timeline: 1, LSN: 10}
				for n, key := range script[0].keys {
					r.cluster.seen = append(r.cluster.seen, cdc.Record{Key: []byte(key), Value: []byte(script[0].event(n))})
				}
			}
			return checkpointtest.None
		})
		if err := r.run(time.Minute); err != nil {
			t.Fatal(err)
		}
		r.check()
	})
}

// The bound on unconfirmed events does not make the reader wait for a commit that
// waits for the reader.
func TestExactlyOnceUnconfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, script...)
		r.maxUnconfirmed, r.server.pace = 1, 0
		if err := r.wholeRun(); err != nil {
			t.Fatal(err)
		}
		r.check()
	})
}

// A successor fences the first, whose later writes nobody sees.
func TestExactlyOnceFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExactRig(t, script[0])
		_, stopFirst := r.start()
		time.Sleep(time.Second)
		_, stopSecond := r.start()
		time.Sleep(time.Second)
		r.server.commit(script[1:]...)
		time.Sleep(time.Minute) // they fence each other: here both may own the slot
		if err := stopFirst(); err != nil {
			t.Logf("the first: %v", err)
		}
		time.Sleep(time.Minute)
		if err := stopSecond(); err != nil {
			t.Errorf("the second: %v", err)
		}
		r.check()
	})
}
