package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

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
			if inside == 0 {
				t.Error("no interruption fell inside a transaction: the test has shown nothing about it")
			}
		})
	}
}
