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

// maxRSS is the promise on memory.
const maxRSS = 100 << 20

// A million events in each shape arrive once, in order, unchanged, in the
// partitions that the Java client would choose, in bounded memory.
func TestMillion(t *testing.T) {
	brokers := loadKafka(t)
	for _, shape := range harness.Shapes {
		t.Run(strings.ReplaceAll(string(shape), " ", "-"), func(t *testing.T) {
			s, n := newStage(t, envtest.NewDatabase(t), brokers), events(t)
			p := s.start("run")
			begun := time.Now()
			s.fill(shape, 1, n)
			written := time.Since(begun)
			s.arrived(n, 5*time.Minute)
			took := time.Since(begun)
			s.stop(p)
			rss := p.PeakRSS()
			r := s.check()
			fmt.Printf("FIGURES %s: %s; written in %.1f s, all in Kafka after %.1f s, peak RSS %.1f MiB, CPU %.1f s\n",
				shape, r, written.Seconds(), took.Seconds(), float64(rss)/(1<<20), p.CPU().Seconds())
			if r.Duplicated > 0 {
				t.Errorf("%d duplicates without a crash", r.Duplicated)
			}
			if rss > maxRSS {
				t.Errorf("peak RSS %d bytes, want at most %d", rss, maxRSS)
			}
		})
	}
}

// The same under kill -9 and under SIGTERM at random moments, some of them inside
// the transaction of all rows: nothing is lost, order is kept, and a stop repeats
// nothing.
func TestMillionInterrupted(t *testing.T) {
	brokers := loadKafka(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			s, n := newStage(t, envtest.NewDatabase(t), brokers), events(t)
			s.set("POSTGRES_PULL_ABOVE=64KiB") // so that streams and pulls are both interrupted
			filled := make(chan error, 1)
			go func() { filled <- fillAll(s, n) }()

			const interruptions = 20
			inside, pulled := 0, 0
			for range interruptions {
				p := s.start("run")
				harness.Eventually(t, 30*time.Second, "streaming", func() bool {
					return strings.Contains(p.Log(), "msg=streaming")
				})
				time.Sleep(time.Duration(rng.Int64N(int64(2500 * time.Millisecond)))) // the moment is the test
				p.Signal(sig)
				code := s.wait(p, 30*time.Second)
				if sig == syscall.SIGTERM && code != 0 {
					t.Fatalf("exit %d after SIGTERM\n%s", code, p.Log())
				}
				pulled += pulls(p)
				if s.insideTransaction() {
					inside++
				}
			}
			p := s.start("run")
			if err := <-filled; err != nil {
				t.Fatal(err)
			}
			s.caughtUp(10 * time.Minute)
			s.stop(p)
			r := s.check()
			fmt.Printf("FIGURES %d times %s, %d of them stopped inside a transaction, %d pulls begun: %s\n", interruptions, sig, inside, pulled, r)
			if pulled == 0 && n >= 1_000_000 {
				t.Error("nothing was pulled: the test has shown nothing about it")
			}
			if sig == syscall.SIGTERM && r.Duplicated > 0 {
				t.Errorf("%d duplicates after clean stops", r.Duplicated)
			}
			if sig == syscall.SIGTERM && inside == 0 && n >= 1_000_000 {
				t.Error("no stop fell inside the large transaction: the test has shown nothing about it")
			}
		})
	}
}

// fillAll writes half of the events as one transaction, and the rest in the
// other shapes, on a connection of its own.
func fillAll(s *stage, n int64) error {
	conn := s.db.Connect(s.t)
	half, sixth := n/2, n/6
	for _, part := range []struct {
		shape       harness.Shape
		first, last int64
	}{
		{harness.Copy, 1, sixth},
		{harness.OneTx, sixth + 1, sixth + half},
		{harness.Rows, sixth + half + 1, 2*sixth + half},
		{harness.OneRow, 2*sixth + half + 1, n},
	} {
		if err := harness.Fill(s.t.Context(), conn, part.shape, part.first, part.last); err != nil {
			return err
		}
	}
	return nil
}

// insideTransaction reports whether the saved position lies in the middle of a
// transaction.
func (s *stage) insideTransaction() bool {
	var inside bool
	err := s.conn.QueryRow(s.t.Context(), "SELECT coalesce(partial_rows, 0) > 0 FROM walpost.checkpoint WHERE slot = $1", s.slot).Scan(&inside)
	return err == nil && inside
}
