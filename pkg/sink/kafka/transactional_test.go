package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
	"github.com/walpost/walpost/pkg/sink/sinktest"
)

// newTransactional returns a Transactional of the slot "s" of cluster 7.
func newTransactional(t testing.TB, cfg Config, topic string) *Transactional {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	x, err := NewTransactional(TransactionalConfig{
		Config: cfg, Slot: "s", Topic: topic,
		SystemID: func(context.Context) (uint64, error) { return 7, nil },
	})
	if err != nil {
		t.Fatalf("NewTransactional() = %v", err)
	}
	t.Cleanup(func() { _ = x.Close() })
	return x
}

func acquired(t testing.TB, x *Transactional) *Transactional {
	t.Helper()
	if _, err := x.Acquire(within(t, testTimeout)); err != nil {
		t.Fatalf("Acquire() = %v", err)
	}
	return x
}

func pos(lsn cdc.LSN) cdc.Position { return cdc.Position{SystemID: 7, Timeline: 1, LSN: lsn} }

// committing is a Transactional whose Flush commits, for the contract of a sink
// that knows nothing of transactions.
type committing struct {
	*Transactional
	lsn cdc.LSN
}

func (c *committing) Flush(ctx context.Context) error {
	err := c.Transactional.Flush(ctx)
	if s := c.current.Load(); err != nil || s.failure() != nil {
		return err // nothing to commit
	}
	c.lsn++
	return c.Save(ctx, pos(c.lsn))
}

// readCommitted returns all that a consumer of committed records sees.
func readCommitted(t testing.TB, brokers []string, topic string) [][]cdc.Record {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := within(t, testTimeout)
	ends, err := kadm.NewClient(c).ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		t.Fatalf("list end offsets: %v", err)
	}
	out := make([][]cdc.Record, len(ends[topic]))
	missing := make(map[int32]int64)
	for p, o := range ends[topic] {
		if o.Offset > 0 {
			missing[p] = o.Offset
		}
	}
	for len(missing) > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("fetch: %v", err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], fromKafka(r))
			}
			if r.Offset >= missing[r.Partition]-1 {
				delete(missing, r.Partition)
			}
		})
	}
	return out
}

func committedValues(t testing.TB, brokers []string, topic string) (all []string) {
	t.Helper()
	for _, p := range readCommitted(t, brokers, topic) {
		for i := range p {
			all = append(all, string(p[i].Value))
		}
	}
	return all
}

func TestTransactionalSinkOnFake(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Harness {
		c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
		return sinkHarness(t, c.ListenAddrs(), testTopic, "")
	})
}

func TestTransactionalSinkOnKafka(t *testing.T) {
	addrs := envtest.Kafka(t).Addrs()
	sinktest.Run(t, func(t *testing.T) sinktest.Harness {
		return sinkHarness(t, addrs, envtest.CreateTopic(t, addrs, testPartitions, nil), envtest.Name(t))
	})
}

func sinkHarness(t *testing.T, addrs []string, topic, progress string) sinktest.Harness {
	g := newGate()
	x := acquired(t, newTransactional(t, Config{Brokers: addrs, MaxInFlightBytes: 64 << 10, Dialer: g.dial}, progress))
	return sinktest.Harness{
		Sink: &committing{Transactional: x}, Topic: topic, Partitions: testPartitions, Oversize: defaultMessageBytes, Full: 200,
		Read:   func(t *testing.T) [][]cdc.Record { return readCommitted(t, addrs, topic) },
		Outage: g.outage,
	}
}

func TestTransactionalStoreOnFake(t *testing.T) {
	checkpointtest.Run(t, func(t *testing.T) checkpointtest.Harness {
		return storeHarness(t, newCluster(t).ListenAddrs(), "")
	})
}

func TestTransactionalStoreOnKafka(t *testing.T) {
	addrs := envtest.Kafka(t).Addrs()
	checkpointtest.Run(t, func(t *testing.T) checkpointtest.Harness {
		h := storeHarness(t, addrs, envtest.Name(t))
		// A coordinator that takes a transactional id over while it ends a transaction of it
		// answers that at times.
		h.Overtaken = func(err error) bool { return errors.Is(err, kerr.UnknownServerError) }
		return h
	})
}

func storeHarness(_ *testing.T, addrs []string, progress string) checkpointtest.Harness {
	g := newGate()
	silent := newSilence()
	return checkpointtest.Harness{
		Transactional: true,
		Open: func(t *testing.T) cdc.Store {
			return newTransactional(t, Config{Brokers: addrs, Dialer: func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := g.dial(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return silent.wrap(conn), nil
			}}, progress)
		},
		Faults: map[string]func(t *testing.T) func(){
			"cut":    func(*testing.T) func() { g.outage(true); return func() { g.outage(false) } },
			"silent": func(*testing.T) func() { silent.set(true); return func() { silent.set(false) } },
		},
	}
}

// Whoever acquires ends what its predecessor had open, and the predecessor writes
// nothing any more that is seen, even if it was only frozen.
func TestTransactionalFences(t *testing.T) {
	for name, addrs := range map[string]func(t *testing.T) []string{
		"Fake":  func(t *testing.T) []string { return newCluster(t, kfake.SeedTopics(1, testTopic)).ListenAddrs() },
		"Kafka": func(t *testing.T) []string { return envtest.Kafka(t).Addrs() },
	} {
		t.Run(name, func(t *testing.T) {
			addrs := addrs(t)
			topic, progress := testTopic, ""
			if name == "Kafka" {
				topic, progress = envtest.CreateTopic(t, addrs, 1, nil), envtest.Name(t)
			}
			first := acquired(t, newTransactional(t, Config{Brokers: addrs}, progress))
			a := new(answers)
			put(t, first, a, topic, "1")
			if err := first.Save(t.Context(), pos(10)); err != nil {
				t.Fatal(err)
			}
			put(t, first, a, topic, "lost")
			if err := first.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			second := newTransactional(t, Config{Brokers: addrs}, progress)
			if cp, err := second.Acquire(t.Context()); err != nil || cp.Position != pos(10) {
				t.Fatalf("Acquire() = %+v, %v, want what was committed", cp, err)
			}
			_ = first.Produce(t.Context(), record(topic, "k", "lost too"), a.done)
			if err := first.Save(t.Context(), pos(20)); !errors.Is(err, cdc.ErrFenced) {
				t.Errorf("Save() by the first = %v, want ErrFenced", err)
			}
			put(t, second, a, topic, "2")
			if err := second.Save(t.Context(), pos(20)); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(committedValues(t, addrs, topic)); got != "[1 2]" {
				t.Errorf("committed: %s, want 1 and 2", got)
			}
		})
	}
}

func put(t testing.TB, x *Transactional, a *answers, topic, value string) {
	t.Helper()
	if err := x.Produce(within(t, testTimeout), record(topic, "k", value), a.done); err != nil {
		t.Fatalf("Produce() = %v", err)
	}
}

// The coordinator aborts a transaction that is open for too long: the next Save
// must not report as committed what is gone.
func TestTransactionalTimesOut(t *testing.T) {
	addrs := envtest.Kafka(t).Addrs()
	topic := envtest.CreateTopic(t, addrs, 1, nil)
	x := acquired(t, newTransactional(t, Config{Brokers: addrs, TransactionTimeout: time.Second}, envtest.Name(t)))
	a := new(answers)
	put(t, x, a, topic, "1")
	if err := x.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the coordinator aborts", func() bool { return len(committedValues(t, addrs, topic)) == 0 && stable(t, addrs, topic) })
	if err := x.Save(t.Context(), pos(10)); !errors.Is(err, cdc.ErrFenced) || !strings.Contains(err.Error(), "kafka.transaction_timeout") {
		t.Fatalf("Save() = %v for a transaction that was aborted, want ErrFenced and the setting", err)
	}
	if cp, err := x.Load(t.Context()); err != nil || cp.Epoch != 1 {
		t.Errorf("Load() = %+v, %v, want the epoch in which it was acquired", cp, err)
	}
	if cp, err := x.Acquire(t.Context()); err != nil || !cp.IsZero() {
		t.Fatalf("Acquire() = %+v, %v, want that nothing was saved", cp, err)
	}
	put(t, x, a, topic, "1")
	if err := x.Save(t.Context(), pos(10)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(committedValues(t, addrs, topic)); got != "[1]" {
		t.Errorf("committed: %s, want 1 once", got)
	}
}

// stable reports whether the topic has no open transaction.
func stable(t testing.TB, addrs []string, topic string) bool {
	t.Helper()
	admin := envtest.Admin(t, addrs)
	ends, err := admin.ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	decided, err := admin.ListCommittedOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := ends.Lookup(topic, 0)
	d, _ := decided.Lookup(topic, 0)
	return e.Offset > 0 && e.Offset == d.Offset
}

// The client library takes a new epoch by itself when a broker has forgotten the
// producer, which aborts the transaction: what is left of it is not committed.
func TestTransactionalEpochChanges(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	x := acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs()}, ""))
	a := new(answers)
	put(t, x, a, testTopic, "1")
	if err := x.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	forgotten := false
	c.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		req := kreq.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode, sp.LogStartOffset = rp.Partition, kerr.UnknownProducerID.Code, 1<<40
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		forgotten = true
		return resp, nil, true
	})
	put(t, x, a, testTopic, "2")
	if err := x.Save(within(t, testTimeout), pos(10)); err == nil || !forgotten {
		t.Errorf("Save() = %v, want an error: the transaction was aborted underneath (forgotten: %t)", err, forgotten)
	}
	acquired(t, x)
	if got := committedValues(t, c.ListenAddrs(), testTopic); len(got) > 0 {
		t.Errorf("committed: %v, want nothing", got)
	}
}

// Nothing counts as processed before it is committed, and a commit that hangs is not
// healthy.
func TestTransactionalIsWatched(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	x := acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs(), Registerer: prometheus.NewRegistry()}, ""))
	put(t, x, new(answers), testTopic, "1")
	if err := x.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	processed := x.base.metrics.processed.WithLabelValues(testTopic)
	if got := testutil.ToFloat64(processed); got != 0 {
		t.Errorf("%v events are processed before the commit, want 0", got)
	}
	hang := make(chan struct{})
	c.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.SleepControl(func() { <-hang })
		return nil, nil, false
	})
	saved := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { saved <- x.Save(ctx, pos(10)) }()
	eventually(t, "not healthy while the commit hangs", func() bool { return x.Healthy(t.Context()) != nil })
	cancel()
	if err := <-saved; err == nil {
		t.Error("Save() = nil though it was cut off")
	}
	close(hang)
	acquired(t, x)
	put(t, x, new(answers), testTopic, "2")
	if err := x.Save(t.Context(), pos(20)); err != nil {
		t.Fatal(err)
	}
	if got := testutil.ToFloat64(processed); got != 1 {
		t.Errorf("%v events are processed, want 1: what was cut off does not count", got)
	}
	if err := x.Healthy(t.Context()); err != nil {
		t.Errorf("Healthy() = %v", err)
	}
}
