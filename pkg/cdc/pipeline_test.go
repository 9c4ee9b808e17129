package cdc_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
	"github.com/walpost/walpost/pkg/sink/sinktest"
)

var script = []scriptTx{
	{keys: []string{"a", "b", "a"}, end: 10},
	{keys: []string{"c"}, end: 20},
	{keys: []string{"a", "d"}, end: 30},
	{end: 40},
}

// rig is a pipeline between a scripted server, a memory sink and a memory store,
// which can be restarted as a new process would be.
type rig struct {
	t       *testing.T
	store   *checkpointtest.Memory
	server  *server
	outcome func(*cdc.Record) sinktest.Outcome
	sinks   []*sinktest.Memory // one for each process
	drain   time.Duration

	inFlight int // bound of the sink; zero is its default
}

func newRig(t *testing.T, txs ...scriptTx) *rig {
	store := checkpointtest.NewMemory()
	return &rig{t: t, store: store, server: newServer(t, store, txs...), drain: 5 * time.Second}
}

// process makes a pipeline as a new process would have it.
func (r *rig) process() (*cdc.Pipeline, *sinktest.Memory) {
	sink := sinktest.NewMemory(sinktest.MemoryConfig{Partitions: 2, MaxInFlight: r.inFlight, Outcome: r.outcome})
	r.sinks = append(r.sinks, sink)
	return cdc.NewPipeline(cdc.Config{
		Source: r.server, Sink: sink, Store: r.store.Open(), Route: route, DrainTimeout: r.drain,
		Logger: slog.New(slog.DiscardHandler),
	}), sink
}

// run runs one process for d.
func (r *rig) run(d time.Duration) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), d)
	defer cancel()
	p, sink := r.process()
	err := p.Run(ctx)
	sink.Close()
	return err
}

// arrived returns the events that any process delivered, in order by key.
func (r *rig) arrived() map[string][]string {
	got := map[string][]string{}
	for _, sink := range r.sinks {
		for _, partition := range sink.Records("t") {
			for _, rec := range partition {
				got[string(rec.Key)] = append(got[string(rec.Key)], string(rec.Value))
			}
		}
	}
	return got
}

// check compares what arrived with the script. Repeats are counted, and
// otherwise left out: the order that matters is that of first arrivals.
func (r *rig) check() (duplicates int) {
	r.t.Helper()
	want := map[string][]string{}
	for _, tx := range r.server.txs {
		for n, key := range tx.keys {
			want[key] = append(want[key], tx.event(n))
		}
	}
	got := r.arrived()
	for key := range want {
		var first []string
		for _, ev := range got[key] {
			if slices.Contains(first, ev) {
				duplicates++
				continue
			}
			first = append(first, ev)
		}
		if !slices.Equal(first, want[key]) {
			r.t.Errorf("key %s: got %v, want %v", key, first, want[key])
		}
	}
	return duplicates
}

// Each external write is lost, done but reported as failed, and never answered.
// Whatever happens, after a restart all events have arrived in order, and
// nothing was confirmed that the store does not hold.
func TestPipelineFaults(t *testing.T) {
	errBoom := errors.New("boom")
	sinkFault := func(o sinktest.Outcome) func(*cdc.Record) sinktest.Outcome {
		return func(r *cdc.Record) sinktest.Outcome {
			if string(r.Key) == "c" {
				return o
			}
			return sinktest.Outcome{}
		}
	}
	storeFault := func(op checkpointtest.Op, f checkpointtest.Fault) func(checkpointtest.Op, cdc.Position) checkpointtest.Fault {
		return func(o checkpointtest.Op, pos cdc.Position) checkpointtest.Fault {
			if o == op && (op != checkpointtest.Save || pos.LSN > 1) {
				return f
			}
			return checkpointtest.None
		}
	}
	tests := []struct {
		name    string
		sink    func(*cdc.Record) sinktest.Outcome
		store   func(checkpointtest.Op, cdc.Position) checkpointtest.Fault
		wantErr error
	}{
		{name: "Healthy"},
		{name: "ProduceLost", sink: sinkFault(sinktest.Outcome{Lost: true, Err: errBoom}), wantErr: errBoom},
		{name: "ProduceKept", sink: sinkFault(sinktest.Outcome{Err: errBoom}), wantErr: errBoom},
		{name: "ProduceSilent", sink: sinkFault(sinktest.Outcome{Lost: true, Silent: true}), wantErr: context.DeadlineExceeded},
		{name: "ProduceKeptSilent", sink: sinkFault(sinktest.Outcome{Silent: true}), wantErr: context.DeadlineExceeded},
		{name: "LoadLost", store: storeFault(checkpointtest.Load, checkpointtest.Lost)},
		{name: "AcquireLost", store: storeFault(checkpointtest.Acquire, checkpointtest.Lost)},
		{name: "AcquirePersisted", store: storeFault(checkpointtest.Acquire, checkpointtest.Persisted)},
		{name: "SaveLost", store: storeFault(checkpointtest.Save, checkpointtest.Lost), wantErr: checkpointtest.ErrFault},
		{name: "SavePersisted", store: storeFault(checkpointtest.Save, checkpointtest.Persisted), wantErr: checkpointtest.ErrFault},
		{name: "SaveSilent", store: storeFault(checkpointtest.Save, checkpointtest.Silent), wantErr: context.DeadlineExceeded},
		{name: "SavePersistedSilent", store: storeFault(checkpointtest.Save, checkpointtest.PersistedSilent), wantErr: context.DeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, script...)
				r.outcome = tt.sink
				if tt.store != nil {
					r.store.SetFault(tt.store)
				}
				if err := r.run(time.Minute); !errors.Is(err, tt.wantErr) {
					t.Fatalf("Run() = %v, want %v", err, tt.wantErr)
				}
				r.outcome = nil
				r.store.Heal()
				if err := r.run(time.Minute); err != nil {
					t.Fatalf("Run() after a restart = %v", err)
				}
				r.check()
				if got := r.store.Checkpoint().LSN; got != 40 {
					t.Errorf("checkpoint = %s, want 0/28", got)
				}
			})
		})
	}
}

// A connection that breaks, wherever it does, repeats nothing and loses nothing
// while the process lives.
func TestPipelineReconnects(t *testing.T) {
	for _, at := range []string{"a/0/A/1", "b/0/A/2", "a/0/A/3", "0/A", "c/0/14/1", "a/0/1E/1", "d/0/1E/2", "0/1E"} {
		t.Run(strings.ReplaceAll(at, "/", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, script...)
				r.server.breaks[at] = true
				if err := r.run(time.Minute); err != nil {
					t.Fatalf("Run() = %v", err)
				}
				if n := r.check(); n != 0 {
					t.Errorf("%d duplicates, want none", n)
				}
				if r.server.opens != 2 {
					t.Errorf("opened %d times, want 2", r.server.opens)
				}
				if got := r.server.confirmed; got != 40 {
					t.Errorf("confirmed = %s, want 0/28", got)
				}
			})
		})
	}
}

// Another process that has owned the checkpoint meanwhile ends what this one
// knows: it starts again from the checkpoint.
func TestPipelineFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script...)
		ctx, cancel := context.WithCancel(t.Context())
		p, sink := r.process()
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(1500 * time.Millisecond) // all is saved
		if _, err := r.store.Open().Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.server.commit(scriptTx{keys: []string{"a"}, end: 50})
		time.Sleep(time.Minute)
		cancel()
		if err := <-ended; err != nil {
			t.Fatalf("Run() = %v", err)
		}
		sink.Close()
		if n := r.check(); n != 1 {
			t.Errorf("%d duplicates, want 1: the event whose save was fenced", n)
		}
		if got := r.store.Checkpoint(); got.LSN != 50 || got.Epoch != 3 {
			t.Errorf("checkpoint = %s of epoch %d, want 0/32 of epoch 3", got.LSN, got.Epoch)
		}
	})
}

// While Kafka is away nothing is saved, and what could be acknowledged before it
// went is; a stop then ends within the drain timeout.
func TestPipelineOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script[0])
		ctx, cancel := context.WithCancel(t.Context())
		p, sink := r.process()
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(time.Second)
		sink.Outage(true)
		r.server.commit(script[1:]...)
		time.Sleep(time.Hour)
		st := p.Status()
		if lag := st.Lag(time.Now()); lag != time.Hour {
			t.Errorf("lag after an hour = %s, want 1h", lag)
		}
		if st.Checkpoint != 10 || st.Acknowledged != 10 || st.Received != 40 || st.Unconfirmed != 3 {
			t.Errorf("status = %+v, want checkpoint and acknowledged 0/A, received 0/28, 3 unconfirmed", st)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run() = %v, want that the drain ran out", err)
		}
		sink.Close()
		if err := r.run(time.Minute); err != nil {
			t.Fatal(err)
		}
		if n := r.check(); n != 0 {
			t.Errorf("%d duplicates, want none", n)
		}
	})
}

// A stop drains: what was handed over is acknowledged, saved and confirmed, and
// the next start repeats nothing.
func TestPipelineDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script...)
		slow := true
		r.outcome = func(*cdc.Record) sinktest.Outcome {
			if slow {
				time.Sleep(100 * time.Millisecond)
			}
			return sinktest.Outcome{}
		}
		if err := r.run(50 * time.Millisecond); err != nil {
			t.Fatalf("Run() = %v", err)
		}
		if got := r.server.confirmed; got != 40 {
			t.Errorf("confirmed = %s, want 0/28", got)
		}
		slow = false
		if err := r.run(time.Minute); err != nil {
			t.Fatal(err)
		}
		if n := r.check(); n != 0 {
			t.Errorf("%d duplicates, want none", n)
		}
	})
}

// The last save is tried once more: a connection that died unnoticed is no reason to
// repeat events.
func TestPipelineLastSaveFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script...)
		r.outcome = func(*cdc.Record) sinktest.Outcome {
			time.Sleep(100 * time.Millisecond) // so that the stop comes before any save
			return sinktest.Outcome{}
		}
		failures := 1
		r.store.SetFault(func(o checkpointtest.Op, pos cdc.Position) checkpointtest.Fault {
			if o != checkpointtest.Save || pos.LSN <= 1 || failures == 0 {
				return checkpointtest.None
			}
			failures--
			return checkpointtest.Lost
		})
		if err := r.run(50 * time.Millisecond); err != nil {
			t.Errorf("Run() = %v", err)
		}
		if got := r.store.Checkpoint().LSN; got != 40 || failures > 0 {
			t.Errorf("checkpoint = %s, want 0/28; %d failures to come", got, failures)
		}
	})
}

// A stop that could not confirm its last position is not a clean one: with the slot
// as the store, that is the save.
func TestPipelineLastConfirmFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script...)
		r.server.unclean = errors.New("not confirmed")
		if err := r.run(time.Second); !errors.Is(err, r.server.unclean) {
			t.Errorf("Run() = %v, want %v", err, r.server.unclean)
		}
	})
}

// A poison row stops the pipeline with its identity. What came before it is
// delivered and confirmed, its own transaction is not.
func TestPipelinePoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script[0], script[1], scriptTx{keys: []string{"d", "poison", "e"}, end: 30})
		err := r.run(time.Minute)
		var poison *cdc.PoisonError
		if !errors.As(err, &poison) {
			t.Fatalf("Run() = %v, want a PoisonError", err)
		}
		want := cdc.PoisonError{Reason: cdc.PoisonKey, Err: poison.Err, Table: "public.outbox", CommitLSN: 29, Ordinal: 2}
		if *poison != want {
			t.Errorf("got %+v, want %+v", *poison, want)
		}
		if got := r.server.confirmed; got != 20 {
			t.Errorf("confirmed = %s, want 0/14", got)
		}
		if got := r.arrived()["e"]; got != nil {
			t.Errorf("published %v, which is behind the poison row", got)
		}
	})
}

// What the source refuses is final, and nothing was written.
func TestPipelineRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script...)
		r.server.refuse = cdc.Refuse("drop it", "slot is lost")
		err := r.run(time.Minute)
		var refused *cdc.RefusedError
		if !errors.As(err, &refused) || refused.Hint != "drop it" {
			t.Fatalf("Run() = %v, want the refusal with its hint", err)
		}
		if got := r.store.Checkpoint(); got != (cdc.Checkpoint{}) {
			t.Errorf("checkpoint = %+v, want none", got)
		}
	})
}

// Idle positions are saved only once they are worth it: the save is WAL too.
func TestPipelineIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, scriptTx{keys: []string{"a"}, end: 10}, scriptTx{end: 11})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p, sink := r.process()
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(time.Minute)
		before := r.store.Checkpoint()
		for lsn := range cdc.LSN(100) {
			r.server.commit(scriptTx{end: 1000 + lsn})
			time.Sleep(time.Second)
		}
		if got := r.store.Checkpoint(); got != before {
			t.Errorf("checkpoint = %+v after idle positions, want it as it was: %+v", got, before)
		}
		r.server.commit(scriptTx{end: 2 << 20})
		time.Sleep(time.Minute)
		if got := r.store.Checkpoint().LSN; got != 2<<20 {
			t.Errorf("checkpoint = %s, want %s", got, cdc.LSN(2<<20))
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		sink.Close()
	})
}
