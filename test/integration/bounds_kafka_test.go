package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// Kafka is dead, and then frozen, for minutes while writers go on: walpost keeps its
// stream, and what it holds does not grow.
func TestBoundsKafkaAway(t *testing.T) {
	s, _, kafka := newFaultyStage(t, "")
	p := s.start("run")
	s.fill(harness.OneRow, 1, 1000)
	s.caughtUp(time.Minute)
	w := s.write(t, 1001)
	away := sized(8*time.Second, 3*time.Minute) // longer than wal_sender_timeout
	outages := []struct {
		name       string
		begin, end func() error
	}{
		{"dead", func() error { return kafka.Kill(t.Context()) }, func() error { return kafka.Start(t.Context()) }},
		{"frozen", kafka.Pause, kafka.Resume},
	}
	for _, o := range outages {
		must(t, o.begin())
		harness.Eventually(t, 30*time.Second, "/readyz 503", func() bool { code, _ := s.ready(); return code == 503 })
		s.reaches("walpost_in_flight_bytes", 6<<20)
		full := p.Resources(t, s.admin)
		s.staysAway(p, away)
		after := p.Resources(t, s.admin)
		_, reason := s.ready()
		fmt.Printf("FIGURES bounds, Kafka %s for %s: not ready because %q; from %s to %s\n", o.name, away, reason, full, after)
		steady(t, "while Kafka was "+o.name, full, s.resources(p))
		must(t, o.end())
		s.isReady(time.Minute)
	}
	written := w.stop()
	s.caughtUp(5 * time.Minute)
	if strings.Contains(p.Log(), "stream interrupted") {
		t.Error("the stream was interrupted though only Kafka was away")
	}
	s.bounded(p, fmt.Sprintf("twice Kafka away for %s while %d events were written", away, written), s.ledger(), harness.Check, s.topic)
}

// staysAway waits, and sees that walpost lives.
func (s *stage) staysAway(p *harness.Process, d time.Duration) {
	s.t.Helper()
	select {
	case <-p.Exited():
		s.t.Fatalf("walpost ended:\n%s", p.Log())
	case <-time.After(d): // the time is the test
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// writing is a writer of some thousand events a second.
type writing struct {
	cancel context.CancelFunc
	ended  chan int64
}

// write begins it, at an event's number.
func (s *stage) write(t *testing.T, first int64) *writing {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &writing{cancel: cancel, ended: make(chan int64, 1)}
	conn := s.db.Connect(t)
	go func() {
		next := first
		defer func() { w.ended <- next - first }()
		for ; ctx.Err() == nil; next += 500 {
			if err := harness.Fill(t.Context(), conn, harness.Rows, next, next+499); err != nil {
				t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond): // the rate
			}
		}
	}()
	t.Cleanup(cancel)
	return w
}

// stop returns how many events were written.
func (w *writing) stop() int64 {
	w.cancel()
	return <-w.ended
}

// One partition takes nothing while the others are busy. Their events go on until a
// bound is reached, walpost says which partition it is, and afterwards all is there in
// order.
func TestBoundsStuckPartition(t *testing.T) {
	for _, bound := range []struct {
		name, metric string
		limit        float64
	}{
		{"Bytes", "walpost_in_flight_bytes", sized[float64](2<<20, 16<<20)},
		{"Events", "walpost_unconfirmed_events", sized[float64](20_000, 200_000)},
	} {
		t.Run(bound.name, func(t *testing.T) {
			cluster := envtest.FakeKafka(t)
			s := newStage(t, envtest.NewDatabase(t), cluster.ListenAddrs())
			if bound.name == "Bytes" {
				s.set(fmt.Sprintf("DELIVERY_MAX_IN_FLIGHT_BYTES=%.0f", bound.limit))
			} else {
				s.set(fmt.Sprintf("DELIVERY_MAX_UNCONFIRMED_EVENTS=%.0f", bound.limit), "DELIVERY_MAX_IN_FLIGHT_BYTES=64MiB")
			}
			p := s.start("run")
			s.fill(harness.OneRow, 1, 1000)
			s.caughtUp(time.Minute)
			stuck := harness.Murmur2Partition([]byte("order-0"), partitions)
			fault := cluster.Fault(kfake.Fault{
				Keys: []kmsg.Key{kmsg.Produce}, Topic: s.topic, Partitions: []int32{stuck}, Err: kerr.NotEnoughReplicas, Count: -1,
			})
			n := sized[int64](60_000, 600_000)
			s.fill(harness.Rows, 1001, n)
			s.stuck(p, bound.metric, bound.limit, stuck)
			others := s.offsets() - 1000
			full := p.Resources(t, s.admin)
			s.staysAway(p, sized(3*time.Second, time.Minute))
			steady(t, "while a partition was stuck", full, s.resources(p))
			if got := s.offsets() - 1000; got != others || others < n/20 {
				t.Errorf("%d events went on beside the stuck partition and %d later, want many and then none", others, got)
			}
			fault.Remove()
			s.caughtUp(2 * time.Minute)
			s.isReady(time.Minute)
			what := fmt.Sprintf("partition %d stuck, bound by %s: %d others went on, %d attempts", stuck, bound.metric, others, fault.Hits())
			s.bounded(p, what, s.ledger(), harness.Check, s.topic)
		})
	}
}

// stuck waits for the bound to be reached, and looks at what is said of the partition.
func (s *stage) stuck(p *harness.Process, metric string, limit float64, partition int32) {
	s.t.Helper()
	s.reaches(metric, limit)
	harness.Eventually(s.t, 30*time.Second, "/readyz 503", func() bool { code, _ := s.ready(); return code == 503 })
	s.reaches(metric, limit)
	want := fmt.Sprintf("topic %s partition %d: NOT_ENOUGH_REPLICAS", s.topic, partition)
	if _, reason := s.ready(); !strings.Contains(reason, want) {
		s.t.Errorf("not ready because %q, want %q", reason, want)
	}
	labels := fmt.Sprintf(`walpost_stalled_seconds{partition="%d",topic="%s"}`, partition, s.topic)
	if age, ok := harness.Metric(s.t.Context(), s.admin, labels); !ok || age < 1 {
		s.t.Errorf("%s is %.1f, %v", labels, age, ok)
	}
	if !logged(p, "level=WARN", want) {
		s.t.Errorf("logged nothing of %q", want)
	}
}

// reaches waits for a metric to come to its bound, which it must not pass.
func (s *stage) reaches(metric string, limit float64) {
	s.t.Helper()
	reached := 0.0
	harness.Eventually(s.t, 2*time.Minute, metric+" at its bound", func() bool {
		reached, _ = harness.Metric(s.t.Context(), s.admin, metric)
		return reached > 0.98*limit
	})
	if reached > limit {
		s.t.Errorf("%s is %.0f, want at most %.0f", metric, reached, limit)
	}
}

// Many topics, on a real broker and on one in this process that has still more.
func TestBoundsTopics(t *testing.T) {
	for _, c := range []struct {
		name    string
		topics  int
		brokers func(testing.TB) []string
	}{
		{"RealBroker", sized(40, 200), loadKafka},
		{"InProcess", sized(1000, 10_000), func(t testing.TB) []string { return envtest.FakeKafka(t, kfake.NumBrokers(3)).ListenAddrs() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, envtest.NewDatabase(t), c.brokers(t))
			topics := s.manyTopics(c.topics, 4)
			p := s.start("run")
			s.isReady(30 * time.Second)
			const insert = `INSERT INTO outbox SELECT gen_random_uuid(), 'r' || n % $3, 'order-' || n % ($3 * 5), 'created', to_jsonb(n), n
				FROM generate_series($1::bigint, $2::bigint) n`
			n := int64(c.topics)
			begun := time.Now()
			s.exec(insert, 1, 5*n, n)
			s.caughtUpEvery(time.Second, 10*time.Minute)
			first := time.Since(begun)
			known := p.Resources(t, s.admin)
			s.exec(insert, 5*n+1, 20*n, n)
			s.caughtUpEvery(time.Second, 10*time.Minute)
			steady(t, "with all topics known", known, s.resources(p))
			what := fmt.Sprintf("%d topics of 4 partitions (%s): all met after %.1f s, then %s", c.topics, c.name, first.Seconds(), known)
			s.bounded(p, what, s.ledger(), harness.Check, topics...)
		})
	}
}

// manyTopics makes topics, and routes to them.
func (s *stage) manyTopics(n int, partitions int32) []string {
	s.t.Helper()
	topics := make([]string, n)
	for i := range topics {
		topics[i] = fmt.Sprintf("%s.r%d", s.topic, i)
	}
	admin := envtest.Admin(s.t, s.brokers)
	for part := range slices.Chunk(topics, 200) {
		created, err := admin.CreateTopics(s.t.Context(), partitions, 1, nil, part...)
		if err == nil {
			err = created.Error()
		}
		must(s.t, err)
	}
	s.set("OUTBOX_TOPIC=" + s.topic + ".${routedByValue}")
	return topics
}
