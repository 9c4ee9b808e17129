package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/sink/sinktest"
)

const deadTopic = "orders.dead"

// A dead-letter topic that the sink creates keeps what it is given, in one order, and
// takes more than other topics.
func TestDeadLetterTopicIsCreated(t *testing.T) {
	c := newCluster(t)
	s := newSink(t, Config{Brokers: c.ListenAddrs(), CreateTopics: true, Partitions: 5, DeadLetterTopic: deadTopic, MaxMessageBytes: 5000})
	a := new(answers)
	produce(t, s, a, record(deadTopic, "k", strings.Repeat("x", 2<<20)))
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Fatalf("done(%v)", err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	configs, err := kadm.NewClient(client).DescribeTopicConfigs(t.Context(), deadTopic)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, cfg := range configs[0].Configs {
		got[cfg.Key] = cfg.MaybeValue()
	}
	for key, want := range deadLetterSettings {
		if got[key] != want {
			t.Errorf("%s = %q, want %q", key, got[key], want)
		}
	}
	if n := len(readTopic(t, c.ListenAddrs(), deadTopic)); n != 1 {
		t.Errorf("%d partitions, want 1", n)
	}
}

// A dead-letter topic of somebody else's making is judged by what it would drop.
func TestDeadLetterTopicIsJudged(t *testing.T) {
	for name, test := range map[string]struct {
		settings map[string]string
		warning  string
		refused  bool
	}{
		"Good":      {settings: map[string]string{"retention.ms": "-1"}},
		"Time":      {settings: map[string]string{"retention.ms": "604800000"}, warning: "168h0m0s"},
		"Size":      {settings: map[string]string{"retention.ms": "-1", "retention.bytes": "1000"}, warning: "retention_bytes=1000"},
		"Compacted": {settings: map[string]string{"cleanup.policy": "compact"}, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			if err := c.CreateTopic(deadTopic, 1, test.settings); err != nil {
				t.Fatal(err)
			}
			log := new(logs)
			s := newSink(t, Config{Brokers: c.ListenAddrs(), DeadLetterTopic: deadTopic, Logger: log.logger(slog.LevelWarn)})
			err := s.Produce(within(t, testTimeout), record(deadTopic, "k", "v"), new(answers).done)
			var refused *cdc.RefusedError
			if errors.As(err, &refused) != test.refused {
				t.Errorf("Produce() = %v, want a refusal: %t", err, test.refused)
			}
			if got := log.count("the dead-letter topic drops"); got != min(1, len(test.warning)) || log.count(test.warning) == 0 && test.warning != "" {
				t.Errorf("%d warnings, want %q", got, test.warning)
			}
		})
	}
}

func newReader(t *testing.T, brokers []string, topic string) *Reader {
	t.Helper()
	r, err := NewReader(Config{Brokers: brokers, Logger: slog.New(slog.DiscardHandler)}, topic, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// A reader returns what is there from any offset on, in order, waits for more, and
// ends with its context.
func TestReader(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	s := newSink(t, Config{Brokers: c.ListenAddrs()})
	a := new(answers)
	const n = 50
	if err := produceSequence(t.Context(), s, a, 0, n); err != nil {
		t.Fatal(err)
	}
	flush(t, s)
	r := newReader(t, c.ListenAddrs(), testTopic)
	for _, from := range []int64{0, 7, 0, n - 1} {
		for at := from; at < n; {
			recs, err := r.Fetch(within(t, testTimeout), at)
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range recs {
				if rec.Offset != at || string(rec.Value) != fmt.Sprint(at) || string(rec.Key) != "key" {
					t.Fatalf("got %q at %d, want %d", rec.Value, rec.Offset, at)
				}
				at++
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Fetch(ctx, n); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Fetch() at the end = %v, want deadline exceeded", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = produceSequence(context.Background(), s, a, n, n+1) })
	if recs, err := r.Fetch(within(t, testTimeout), n); err != nil || string(recs[0].Value) != fmt.Sprint(n) {
		t.Errorf("Fetch() of what comes = %v, %v", recs, err)
	}
	count := 0
	if err := r.ReadAll(within(t, testTimeout), func(cdc.Logged) error { count++; return nil }); err != nil || count != n+1 {
		t.Errorf("ReadAll() = %v after %d records, want %d", err, count, n+1)
	}
	if err := newReader(t, c.ListenAddrs(), "nothing").ReadAll(within(t, testTimeout), nil); !errors.Is(err, ErrNoTopic) {
		t.Errorf("ReadAll() of a missing topic = %v, want %v", err, ErrNoTopic)
	}
}

// What is in an aborted transaction is not read, and one that ends the log does not
// make the reader wait.
func TestReaderTransactions(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.TransactionalID("t"), kgo.DefaultProduceTopic(testTopic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx := within(t, testTimeout)
	for value, commit := range map[string]kgo.TransactionEndTry{"kept": kgo.TryCommit, "void": kgo.TryAbort} {
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := client.ProduceSync(ctx, kgo.StringRecord(value)).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := client.EndTransaction(ctx, commit); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	r := newReader(t, c.ListenAddrs(), testTopic)
	if err := r.ReadAll(ctx, func(rec cdc.Logged) error { got = append(got, string(rec.Value)); return nil }); err != nil || len(got) != 1 || got[0] != "kept" {
		t.Errorf("read %v, %v, want only what is committed", got, err)
	}
}

// An outage is waited out by a reader.
func TestReaderOutage(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	g := newGate()
	s := newSink(t, Config{Brokers: c.ListenAddrs()})
	produce(t, s, new(answers), record(testTopic, "key", "0"))
	flush(t, s)
	r := newReader(t, c.ListenAddrs(), testTopic)
	r.cfg.Dialer = g.dial
	g.outage(true)
	time.AfterFunc(time.Second, func() { g.outage(false) })
	if recs, err := r.Fetch(within(t, testTimeout), 0); err != nil || len(recs) != 1 {
		t.Errorf("Fetch() = %v, %v, want the record", recs, err)
	}
}

// A sink that was opened again takes records, and counts on in the same metrics.
func TestReopen(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	r, err := NewReopening(Config{Brokers: c.ListenAddrs(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	a := new(answers)
	send := func(value string) error {
		return r.Produce(within(t, testTimeout), record(testTopic, "key", value), a.done)
	}
	if err := errors.Join(send("0"), r.Flush(t.Context()), r.Reopen(t.Context())); err != nil {
		t.Fatal(err)
	}
	before := r.sink.Load()
	h := c.Fault(refusal(-1))
	if err := errors.Join(send("refused"), r.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	h.Remove()
	if err := send("late"); err == nil {
		t.Error("the sink took a record after it had given up")
	}
	if err := r.Reopen(t.Context()); err != nil || r.sink.Load() == before {
		t.Fatalf("Reopen() = %v", err)
	}
	if err := errors.Join(send("1"), r.Flush(t.Context()), r.Healthy(t.Context())); err != nil {
		t.Fatal(err)
	}
	checkSequence(t, values(t, c.ListenAddrs(), testTopic), 2)
}

// A sink that can be opened again keeps the contract of any other.
func TestReopeningContract(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Harness {
		c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
		g := newGate()
		r, err := NewReopening(Config{Brokers: c.ListenAddrs(), MaxInFlightBytes: 64 << 10, Dialer: g.dial, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return sinktest.Harness{
			Sink: r, Topic: testTopic, Partitions: testPartitions, Oversize: defaultMessageBytes, Full: 200,
			Read:   func(t *testing.T) [][]cdc.Record { return readTopic(t, c.ListenAddrs(), testTopic) },
			Outage: g.outage,
			Refuse: func() { c.Fault(refusal(-1)) },
		}
	})
}
