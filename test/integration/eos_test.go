package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// newExactStage is a stage for exactly-once, with a progress topic of its own.
func newExactStage(t testing.TB, db envtest.Database, brokers []string) *stage {
	t.Helper()
	s := newStage(t, db, brokers)
	s.set("DELIVERY_GUARANTEE=exactly-once", "CHECKPOINT_TOPIC="+s.topic+".progress")
	return s
}

// checkExact compares what a consumer of committed records sees with the table.
func (s *stage) checkExact() harness.Report {
	s.t.Helper()
	r := s.compare(harness.CheckCommitted)
	if r.Duplicated > 0 {
		s.t.Errorf("%d duplicates", r.Duplicated)
	}
	return r
}

// Events arrive exactly once in each shape, also from a source transaction that
// is split over many Kafka transactions.
func TestExactlyOnce(t *testing.T) {
	brokers := loadKafka(t)
	for _, shape := range harness.Shapes {
		t.Run(strings.ReplaceAll(string(shape), " ", "-"), func(t *testing.T) {
			s, n := newExactStage(t, envtest.NewDatabase(t), brokers), events(t)
			p := s.start("run")
			begun := time.Now()
			s.fill(shape, 1, n)
			written := time.Since(begun)
			s.caughtUp(5 * time.Minute)
			took := time.Since(begun)
			s.stop(p)
			r := s.checkExact()
			fmt.Printf("FIGURES exactly once, %s: %s; written in %.1f s, all committed in Kafka after %.1f s, peak RSS %.1f MiB, CPU %.1f s\n",
				shape, r, written.Seconds(), took.Seconds(), float64(p.PeakRSS())/(1<<20), p.CPU().Seconds())
			if p.PeakRSS() > maxRSS {
				t.Errorf("peak RSS %d bytes, want at most %d", p.PeakRSS(), maxRSS)
			}
		})
	}
}

// The same under kill -9 and under SIGTERM at random moments.
func TestExactlyOnceInterrupted(t *testing.T) {
	brokers := loadKafka(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			s, n := newExactStage(t, envtest.NewDatabase(t), brokers), events(t)
			filled := make(chan error, 1)
			go func() { filled <- fillAll(s, n) }()

			const interruptions = 10
			inside := 0
			for range interruptions {
				p := s.start("run")
				harness.Eventually(t, 30*time.Second, "streaming", func() bool {
					return strings.Contains(p.Log(), "msg=streaming")
				})
				time.Sleep(time.Duration(rng.Int64N(int64(1500 * time.Millisecond)))) // the moment is the test
				p.Signal(sig)
				code := s.wait(p, 30*time.Second)
				if sig == syscall.SIGTERM && code != 0 {
					t.Fatalf("exit %d after SIGTERM\n%s", code, p.Log())
				}
				if strings.Contains(s.walpost("checkpoint", "show", "--output=json"), `"partial"`) {
					inside++
				}
			}
			p := s.start("run")
			if err := <-filled; err != nil {
				t.Fatal(err)
			}
			s.caughtUp(10 * time.Minute)
			s.stop(p)
			fmt.Printf("FIGURES exactly once, %d times %s, %d of them inside a transaction: %s\n", interruptions, sig, inside, s.checkExact())
		})
	}
}

// The same in the middle of one source transaction, again and again.
func TestExactlyOnceInsideTransaction(t *testing.T) {
	s, n := newExactStage(t, envtest.NewDatabase(t), loadKafka(t)), events(t)
	s.fill(harness.OneTx, 1, n)
	inside := 0
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM} {
		before := s.offsets()
		p := s.start("run")
		harness.Eventually(t, time.Minute, "events in Kafka", func() bool { return s.offsets() > before+n/50 })
		p.Signal(sig)
		if code := s.wait(p, 30*time.Second); sig == syscall.SIGTERM && code != 0 {
			t.Fatalf("exit %d after SIGTERM\n%s", code, p.Log())
		}
		if strings.Contains(s.walpost("checkpoint", "show", "--output=json"), `"partial"`) {
			inside++
		}
	}
	p := s.start("run")
	s.caughtUp(5 * time.Minute)
	s.stop(p)
	fmt.Printf("FIGURES exactly once, 6 times interrupted inside one transaction, %d of them behind its first rows: %s\n", inside, s.checkExact())
	if inside == 0 {
		t.Error("no interruption fell inside the transaction: the test has shown nothing about it")
	}
}

// A leader is frozen inside a large transaction, a standby takes over, and the
// leader wakes up: nothing that it writes then is seen, and it ends as a standby.
func TestZombie(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"wal_sender_timeout": senderTimeout.String()}})
	s := newExactStage(t, envtest.Database{Name: "postgres", DSN: pg.DSN(), SocketDSN: pg.SocketDSN()}, loadKafka(t))
	n := events(t)
	first := s.start("run")
	s.isReady(30 * time.Second)
	s.fill(harness.OneRow, 1, 100)
	s.caughtUp(30 * time.Second)
	other := s.twin()
	second := other.start("run")
	harness.Eventually(t, 30*time.Second, "standby", func() bool {
		code, word := other.ready()
		return code == 200 && word == "standby"
	})
	filled := make(chan error, 1)
	go func() { filled <- harness.Fill(t.Context(), s.db.Connect(t), harness.OneTx, 101, n) }()
	before := s.offsets()
	harness.Eventually(t, time.Minute, "the large transaction is on its way", func() bool { return s.offsets() > before+n/20 })
	first.Signal(syscall.SIGSTOP)
	frozen := time.Now()
	if err := <-filled; err != nil {
		t.Fatal(err)
	}
	other.caughtUp(2 * time.Minute)
	took := time.Since(frozen)
	first.Signal(syscall.SIGCONT)
	harness.Eventually(t, time.Minute, "the first is a standby", func() bool {
		code, word := s.ready()
		return code == 200 && word == "standby"
	})
	s.fill(harness.OneRow, n+1, n+100)
	other.caughtUp(30 * time.Second)
	fmt.Printf("FIGURES zombie: caught up %.1f s after the leader froze inside a transaction of %d rows; %s\n", took.Seconds(), n-100, s.checkExact())
	s.stop(first)
	other.stop(second)
}

// twin is the same stage for another instance.
func (s *stage) twin() *stage {
	other := *s
	other.env = append([]string{}, s.env...)
	other.admin = harness.FreeAddr(s.t)
	other.set("ADMIN_LISTEN=" + other.admin)
	return &other
}

// offsets returns how many offsets the topic has used.
func (s *stage) offsets() int64 {
	s.t.Helper()
	n, err := harness.Count(s.t.Context(), s.brokers, s.topic)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// Kafka is away for longer than a transaction may be open, in the middle of one:
// it is aborted, and published again as if it had never been.
func TestKafkaAwayBeyondTransactionTimeout(t *testing.T) {
	s, _, kafka := newFaultyStage(t, "")
	s.set("DELIVERY_GUARANTEE=exactly-once", "CHECKPOINT_TOPIC="+s.topic+".progress", "KAFKA_TRANSACTION_TIMEOUT=3s")
	p := s.start("run")
	s.fill(harness.OneRow, 1, 1000)
	s.caughtUp(time.Minute)
	const rounds = 3
	next := int64(1001)
	for range rounds {
		filled := make(chan error, 1)
		first := next
		go func() { filled <- harness.Fill(t.Context(), s.db.Connect(t), harness.Rows, first, first+50_000-1) }()
		before := s.offsets()
		harness.Eventually(t, time.Minute, "events on their way", func() bool { return s.offsets() > before+5000 })
		if err := kafka.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone := time.Now()
		if err := <-filled; err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, 30*time.Second, "/readyz 503", func() bool { code, _ := s.ready(); return code == 503 })
		for time.Since(gone) < 8*time.Second {
			select {
			case <-p.Exited():
				t.Fatalf("walpost ended:\n%s", p.Log())
			case <-time.After(time.Second):
			}
		}
		if err := kafka.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.isReady(time.Minute)
		s.caughtUp(2 * time.Minute)
		next += 50_000
	}
	s.stop(p)
	fmt.Printf("FIGURES exactly once, %d times Kafka away for longer than the transaction timeout: %d rounds ended; %s\n",
		rounds, strings.Count(p.Log(), "stream interrupted"), s.checkExact())
}

// A checkpoint that is gone from Kafka under a used slot is refused, and one that
// another store has left is taken over.
func TestExactlyOnceWithoutCheckpoint(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("run") // at least once
	s.fill(harness.OneRow, 1, 1000)
	s.caughtUp(time.Minute)
	s.stop(p)
	s.set("DELIVERY_GUARANTEE=exactly-once", "CHECKPOINT_TOPIC="+s.topic+".progress")
	p = s.start("run")
	s.isReady(30 * time.Second)
	s.fill(harness.OneRow, 1001, 2000)
	s.caughtUp(time.Minute)
	s.stop(p)
	s.checkExact()

	fresh := newExactStage(t, envtest.NewDatabase(t), s.brokers)
	p = fresh.start("run")
	fresh.isReady(30 * time.Second)
	fresh.stop(p)
	fresh.set("CHECKPOINT_TOPIC=" + s.topic + ".other")
	p = fresh.start("run")
	if code := fresh.wait(p, time.Minute); code != 1 {
		t.Errorf("exit %d without the checkpoint, want 1", code)
	}
	for _, want := range []string{"its checkpoint is not in Kafka", "hint: check kafka.brokers and checkpoint.topic"} {
		if !strings.Contains(p.Log(), want) {
			t.Errorf("said\n%s\nwant %q", p.Log(), want)
		}
	}
}

// An event whose topic is missing waits, and what comes before it in its transaction does not
// wait for it: consumers of committed records see it, and the cluster has nothing to abort.
func TestExactlyOnceBeforeMissingTopic(t *testing.T) {
	s := newExactStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	late := s.topic + ".late"
	s.set("OUTBOX_TOPIC=${routedByValue}", "KAFKA_TRANSACTION_TIMEOUT=1s")
	p := s.start("run")
	s.isReady(30 * time.Second)
	s.db.Exec(t, `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq)
		SELECT gen_random_uuid(), topic, 'k', 'created', '{}', n FROM (VALUES (1, '`+s.topic+`'), (2, '`+late+`'), (3, '`+s.topic+`')) v (n, topic)`)
	seen := func(topic string) (n int) {
		if err := harness.ConsumeCommitted(t.Context(), s.brokers, []string{topic}, func(*kgo.Record, int32) { n++ }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	harness.Eventually(t, 30*time.Second, "the first event is committed", func() bool { return seen(s.topic) == 1 })
	harness.Eventually(t, 30*time.Second, "/readyz names the topic", func() bool {
		code, text := s.ready()
		return code == 503 && strings.Contains(text, late)
	})
	s.stop(p)
	p = s.start("run")
	if _, err := envtest.Admin(t, s.brokers).CreateTopic(t.Context(), 1, 1, nil, late); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 30*time.Second, "all events are committed", func() bool { return seen(s.topic) == 2 })
	s.stop(p)
	if n := seen(late); n != 1 || seen(s.topic) != 2 {
		t.Errorf("%d events in the topic that was missing and %d in the other, want 1 and 2", n, seen(s.topic))
	}
}
