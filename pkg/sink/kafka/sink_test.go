package kafka

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

func TestBudget(t *testing.T) {
	quit := make(chan struct{})
	b := newBudget(100)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, step := range []struct {
		n     int64
		first bool
		err   error
	}{{1000, true, nil}, {1, false, context.Canceled}} {
		if first, err := b.acquire(ctx, quit, step.n, nil); first != step.first || !errors.Is(err, step.err) {
			t.Errorf("acquire(%d) = %t, %v, want %t, %v", step.n, first, err, step.first, step.err)
		}
	}
	b.release(1000)
	for i, n := range []int64{60, 40} {
		if first, err := b.acquire(ctx, quit, n, nil); first != (i == 0) || err != nil {
			t.Errorf("acquire(%d) = %t, %v", n, first, err)
		}
	}
	if records, bytes := b.inFlight(); records != 2 || bytes != 100 {
		t.Errorf("inFlight() = %d, %d, want 2, 100", records, bytes)
	}
	go b.release(60)
	if _, err := b.acquire(t.Context(), quit, 60, nil); err != nil {
		t.Errorf("acquire(60) = %v", err)
	}
	close(quit)
	if _, err := b.acquire(t.Context(), quit, 60, nil); !errors.Is(err, errQuit) {
		t.Errorf("acquire(60) = %v, want quit", err)
	}
}

// With a linger that is longer than the test may take, only a full budget ends it.
func TestFullBudgetEndsLinger(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(3, testTopic))
	s := newSink(t, Config{Brokers: c.ListenAddrs(), MaxInFlightBytes: 64 << 10, Linger: maxLinger})
	a := new(answers)
	if err := produceSequence(within(t, testTimeout), s, a, 0, 1000); err != nil {
		t.Fatal(err)
	}
}

func TestLargerThanTheBudgetPassesAlone(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	s := newSink(t, Config{Brokers: c.ListenAddrs(), MaxInFlightBytes: 1})
	a := new(answers)
	if err := produceSequence(within(t, testTimeout), s, a, 0, 10); err != nil {
		t.Fatal(err)
	}
	flush(t, s)
	checkSequence(t, values(t, c.ListenAddrs(), testTopic), 10)
}

func TestClose(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	g := newGate()
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Dialer: g.dial})
	a := new(answers)
	produce(t, s, a, record(testTopic, "key", "0"))
	flush(t, s)
	g.outage(true)
	if err := produceSequence(t.Context(), s, a, 1, 10); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s.Close()
	got := a.list()
	if len(got) != 10 || got[0] != nil {
		t.Fatalf("done was called with %v, want nil and 9 errors", got)
	}
	for _, err := range got[1:] {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("done(%v), want closed", err)
		}
	}
	if err := s.Produce(t.Context(), record(testTopic, "key", "late"), a.done); !errors.Is(err, ErrClosed) {
		t.Errorf("Produce() = %v, want closed", err)
	}
	if err := s.Healthy(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Healthy() = %v, want closed", err)
	}
}

// TestCloseWaitsForNoReason fails a record in the moment in which the sink is
// closed: it must not be held for a reason that never comes.
func TestCloseWaitsForNoReason(t *testing.T) {
	for range 200 {
		s, tp := discarding(t)
		a := new(answers)
		if _, err := s.budget.acquire(t.Context(), s.quit, 1, nil); err != nil {
			t.Fatal(err)
		}
		d := &delivery{sink: s, record: record(testTopic, "k", "v"), done: a.done, topic: tp, size: 1}
		d.prepare()
		var promise sync.WaitGroup
		promise.Go(func() {
			for s.failure() == nil { // no wait: the moment is short
			}
			s.delivered(&d.Record, context.Canceled)
		})
		s.Close()
		promise.Wait()
		if got := a.list(); len(got) != 1 || !errors.Is(got[0], ErrClosed) {
			t.Fatalf("done was called with %v, want once, with closed", got)
		}
	}
}

// TestReasonIsToldFirst lets the client fail what follows from a failure before
// the failed record itself.
func TestReasonIsToldFirst(t *testing.T) {
	s, tp := discarding(t)
	a := new(answers)
	var ds []*delivery
	for _, value := range []string{"follows", "failed", "follows too", "refused meanwhile"} {
		if _, err := s.budget.acquire(t.Context(), s.quit, 1, nil); err != nil {
			t.Fatal(err)
		}
		d := &delivery{sink: s, record: record(testTopic, "k", value), done: a.done, topic: tp, size: 1}
		d.prepare()
		ds = append(ds, d)
	}
	s.giveUp(kerr.InvalidTxnState)
	s.delivered(&ds[0].Record, context.Canceled)
	if got := a.list(); len(got) > 0 {
		t.Errorf("done was called with %v before the reason is known", got)
	}
	s.delivered(&ds[1].Record, kerr.InvalidTxnState)
	s.delivered(&ds[2].Record, context.Canceled)
	s.delivered(&ds[3].Record, kerr.InvalidRecord)
	for i, err := range a.list() {
		if got, want := errors.Is(err, kerr.InvalidTxnState), i == 0; got != want || err == nil {
			t.Errorf("done %d: %v, want the reason: %t", i, err, want)
		}
	}
	flush(t, s)
}

// TestCancelledForNoReason shows that a record is not taken for delivered, nor
// forgotten, if the client fails it and nobody told it to.
func TestCancelledForNoReason(t *testing.T) {
	s, tp := discarding(t)
	a := new(answers)
	if _, err := s.budget.acquire(t.Context(), s.quit, 1, nil); err != nil {
		t.Fatal(err)
	}
	d := &delivery{sink: s, record: record(testTopic, "k", "v"), done: a.done, topic: tp, size: 1}
	d.prepare()
	s.delivered(&d.Record, context.Canceled)
	flush(t, s)
	if got := a.list(); len(got) != 1 || !errors.Is(got[0], context.Canceled) {
		t.Errorf("done was called with %v, want once, with the client's error", got)
	}
}

func TestNewDoesNotDial(t *testing.T) {
	newSink(t, Config{Brokers: []string{"127.0.0.1:9092"}, Dialer: countDials(nil, nil)})
}

func TestMetrics(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	reg := prometheus.NewPedanticRegistry()
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Registerer: reg})
	a := new(answers)
	if err := produceSequence(t.Context(), s, a, 0, 5); err != nil {
		t.Fatal(err)
	}
	flush(t, s)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	err = testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP walpost_connected 1 while the component is connected.
# TYPE walpost_connected gauge
walpost_connected{component="kafka"} 1
# HELP walpost_events_processed_total Events that Kafka has acknowledged.
# TYPE walpost_events_processed_total counter
walpost_events_processed_total{topic="orders"} 5
# HELP walpost_in_flight_bytes Memory of the events handed to Kafka and not yet acknowledged.
# TYPE walpost_in_flight_bytes gauge
walpost_in_flight_bytes 0
# HELP walpost_in_flight_events Events handed to Kafka and not yet acknowledged.
# TYPE walpost_in_flight_events gauge
walpost_in_flight_events 0
# HELP walpost_reconnects_total Connections made after the first.
# TYPE walpost_reconnects_total counter
walpost_reconnects_total{component="kafka"} 0
# HELP walpost_retries_total Attempts that failed and were made again.
# TYPE walpost_retries_total counter
walpost_retries_total{component="kafka"} 0
`), "walpost_connected", "walpost_events_processed_total", "walpost_in_flight_bytes",
		"walpost_in_flight_events", "walpost_reconnects_total", "walpost_retries_total")
	if err != nil {
		t.Error(err)
	}
	if got := testutil.CollectAndCount(s.metrics.latency); got != 1 {
		t.Errorf("%d latency histograms, want 1", got)
	}
}

func TestReconnectMetrics(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	g := newGate()
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Dialer: g.dial})
	a := new(answers)
	produce(t, s, a, record(testTopic, "key", "0"))
	flush(t, s)
	g.outage(true)
	produce(t, s, a, record(testTopic, "key", "1"))
	eventually(t, "not connected", func() bool { return !s.health.connected() })
	g.outage(false)
	flush(t, s)
	if !s.health.connected() {
		t.Error("connected() = false after the outage")
	}
	if got := testutil.ToFloat64(s.metrics.reconnects); got < 1 {
		t.Errorf("%v reconnects, want some", got)
	}
	if got := testutil.ToFloat64(s.metrics.retries); got < 1 {
		t.Errorf("%v retries, want some", got)
	}
}

func TestParseRetry(t *testing.T) {
	for to, want := range map[string]string{
		"":             "",
		"a[0{3=>5}], ": "",
		"a[0{retrying@-1,2(NAME: text (more))}], ":                             "topic a partition 0: NAME: text (more)",
		"a[0{3=>5}, 1{err@-1,1(OTHER)}], b[2{3=>5}, 3{retrying@-1,2(NAME)}], ": "topic b partition 3: NAME",
		"a[0{retrying@": "topic a partition 0: ",
	} {
		if got := parseRetry(to); got != want {
			t.Errorf("parseRetry(%q) = %q, want %q", to, got, want)
		}
	}
}

// TestAllocations shows that the sink itself allocates nothing for a record: the
// client is replaced by one call of the promise.
func TestAllocations(t *testing.T) {
	s, tp := discarding(t)
	r := benchmarkRecord()
	done := func(*cdc.Record, error) {}
	if got := testing.AllocsPerRun(1000, func() { discard(s, tp, r, done) }); got > 0 {
		t.Errorf("%v allocations for a record, want none", got)
	}
}

func discarding(t testing.TB) (*Sink, *topic) {
	s := newSink(t, Config{Brokers: []string{"127.0.0.1:1"}})
	return s, know(s)
}

// know makes the sink know the topic without asking.
func know(s *Sink) *topic {
	tp := &topic{name: testTopic, processed: s.metrics.processed.WithLabelValues(testTopic)}
	tp.set(facts{testPartitions, defaultMessageBytes, defaultMessageBytes, false})
	s.topics.add(tp)
	return tp
}

// discard is Produce and the promise with no client in between.
func discard(s *Sink, tp *topic, r *cdc.Record, done func(*cdc.Record, error)) {
	if _, _, err := s.admit(context.Background(), r); err != nil {
		panic(err)
	}
	size := footprint(r)
	if err := s.reserve(context.Background(), size); err != nil {
		panic(err)
	}
	defer s.unfeed()
	d := s.newDelivery()
	d.record, d.done, d.topic, d.size = r, done, tp, size
	d.prepare()
	s.promise(&d.Record, nil)
}

func benchmarkRecord() *cdc.Record {
	r := record(testTopic, "aggregate-123456", strings.Repeat("x", 300))
	r.Headers = []cdc.Header{{Key: "id", Value: []byte("5f9c4b0e-6d0f-4f43-9d3a-6f4c1c1b7a10")}, {Key: "type", Value: []byte("OrderPlaced")}}
	return r
}

// BenchmarkSink is the sink without a client.
func BenchmarkSink(b *testing.B) {
	s, tp := discarding(b)
	r := benchmarkRecord()
	done := func(*cdc.Record, error) {}
	b.ReportAllocs()
	for b.Loop() {
		discard(s, tp, r, done)
	}
}

// BenchmarkProduce is the sink with a client and a broker that keeps nothing.
func BenchmarkProduce(b *testing.B) {
	c := newCluster(b, kfake.SeedTopics(3, testTopic), kfake.BlackholeProduce())
	s := newSink(b, Config{Brokers: c.ListenAddrs()})
	r := benchmarkRecord()
	done := func(*cdc.Record, error) {}
	produce := func() {
		if err := s.Produce(b.Context(), r, done); err != nil {
			b.Fatal(err)
		}
	}
	for range 100_000 { // more than are in flight, so that what is used again is there
		produce()
	}
	flush(b, s)
	b.ReportAllocs()
	for b.Loop() {
		produce()
	}
	flush(b, s)
}

// BenchmarkClient is the same without the sink, for comparison.
func BenchmarkClient(b *testing.B) {
	c := newCluster(b, kfake.SeedTopics(3, testTopic), kfake.BlackholeProduce())
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(40_000),
		kgo.RecordPartitioner(newPartitioner()), kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	records := make([]kgo.Record, 1<<17)
	cr := benchmarkRecord()
	for i := range records {
		records[i] = kgo.Record{Topic: testTopic, Partition: -1, Key: cr.Key, Value: cr.Value, Headers: []kgo.RecordHeader{{Key: "id", Value: cr.Headers[0].Value}, {Key: "type", Value: cr.Headers[1].Value}}}
	}
	promise := func(*kgo.Record, error) {}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		records[i%len(records)].Partition = -1
		records[i%len(records)].Timestamp = time.Time{}
		cl.Produce(context.Background(), &records[i%len(records)], promise)
		i++
	}
	_ = cl.Flush(context.Background())
	runtime.KeepAlive(records)
}
