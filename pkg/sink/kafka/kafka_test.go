package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/walpost/walpost/internal/testenv/envtest"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/sink/sinktest"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }

const (
	testTopic      = "orders"
	testPartitions = 3
	testTimeout    = 30 * time.Second
)

// gate is a network that can be cut.
type gate struct {
	network func(ctx context.Context, network, address string) (net.Conn, error)

	mu    sync.Mutex
	cut   bool                  // guarded by mu
	conns map[net.Conn]struct{} // guarded by mu
}

func newGate() *gate { return newGateTo(new(net.Dialer).DialContext) }

func newGateTo(network func(ctx context.Context, network, address string) (net.Conn, error)) *gate {
	return &gate{network: network, conns: make(map[net.Conn]struct{})}
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := g.network(ctx, network, address)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut {
		return nil, errors.Join(errors.New("the network is cut"), conn.Close())
	}
	g.conns[conn] = struct{}{}
	return conn, nil
}

func (g *gate) outage(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cut = on
	for conn := range g.conns {
		_ = conn.Close()
		delete(g.conns, conn)
	}
}

func newCluster(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatalf("start kfake: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// logs is a log to look into.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func (l *logs) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level}))
}

func newSink(t testing.TB, cfg Config) *Sink {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("New() = %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

// answers collects what done is called with.
type answers struct {
	mu   sync.Mutex
	errs []error          // guarded by mu; in the order of the calls
	of   map[string]error // guarded by mu; by value
}

func (a *answers) done(r *cdc.Record, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of = make(map[string]error)
	}
	a.errs = append(a.errs, err)
	a.of[string(r.Value)] = err
}

func (a *answers) list() []error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.errs
}

func record(topic, key, value string) *cdc.Record {
	r := cdc.NewRecord()
	r.Topic, r.Key, r.Value = topic, []byte(key), []byte(value)
	r.Timestamp, r.CommitTime = time.Now(), time.Now()
	return r
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func produce(t testing.TB, s *Sink, a *answers, r *cdc.Record) {
	t.Helper()
	if err := s.Produce(within(t, testTimeout), r, a.done); err != nil {
		t.Fatalf("Produce() = %v", err)
	}
}

func flush(t testing.TB, s *Sink) {
	t.Helper()
	if err := s.Flush(within(t, testTimeout)); err != nil {
		t.Fatalf("Flush() = %v", err)
	}
}

// eventually waits until what is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx := within(t, testTimeout); !so(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		}
	}
}

// readTopic returns all records of a topic by partition.
func readTopic(t testing.TB, brokers []string, topic string, opts ...kgo.Opt) [][]cdc.Record {
	t.Helper()
	c, err := kgo.NewClient(append(opts, kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatalf("new client: %v", err)
	}
	defer c.Close()
	ctx := within(t, testTimeout)
	ends, err := kadm.NewClient(c).ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatalf("list end offsets: %v", err)
	}
	out := make([][]cdc.Record, len(ends[topic]))
	missing := int64(0)
	for _, o := range ends[topic] {
		missing += o.Offset
	}
	for missing > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("fetch: %v", err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			out[r.Partition] = append(out[r.Partition], fromKafka(r))
			missing--
		})
	}
	return out
}

func fromKafka(r *kgo.Record) cdc.Record {
	rec := cdc.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Timestamp: r.Timestamp}
	for _, h := range r.Headers {
		rec.Headers = append(rec.Headers, cdc.Header{Key: h.Key, Value: h.Value})
	}
	return rec
}

// values returns the values of all records of a topic, by partition.
func values(t testing.TB, brokers []string, topic string, opts ...kgo.Opt) [][]string {
	t.Helper()
	var out [][]string
	for _, p := range readTopic(t, brokers, topic, opts...) {
		var vs []string
		for i := range p {
			vs = append(vs, string(p[i].Value))
		}
		out = append(out, vs)
	}
	return out
}

// checkSequence checks that the values are the numbers from 0 to n-1, all keys
// being one and so in one partition.
func checkSequence(t testing.TB, got [][]string, n int) {
	t.Helper()
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(i))
	}
	var all []string
	for _, p := range got {
		all = append(all, p...)
	}
	if fmt.Sprint(all) != fmt.Sprint(want) {
		t.Errorf("durable: %v\nwant 0 to %d in order", all, n-1)
	}
}

func TestContractOnFake(t *testing.T) {
	for _, linger := range []time.Duration{0, 20 * time.Millisecond} {
		t.Run(fmt.Sprint("linger ", linger), func(t *testing.T) {
			sinktest.Run(t, func(t *testing.T) sinktest.Harness {
				c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
				g := newGate()
				s := newSink(t, Config{Brokers: c.ListenAddrs(), MaxInFlightBytes: 64 << 10, Linger: linger, Dialer: g.dial})
				return sinktest.Harness{
					Sink: s, Topic: testTopic, Partitions: testPartitions, Oversize: defaultMessageBytes, Full: 200,
					Read:   func(t *testing.T) [][]cdc.Record { return readTopic(t, c.ListenAddrs(), testTopic) },
					Outage: g.outage,
					Refuse: func() { c.Fault(refusal(-1)) },
				}
			})
		})
	}
}
