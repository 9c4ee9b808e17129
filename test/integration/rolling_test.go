package integration

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// Instances are replaced one by one under a steady load: what commits meanwhile waits a
// moment, and nothing is lost, nor repeated by a clean stop.
func TestRollingRestart(t *testing.T) {
	for name, s := range map[string]*stage{
		"at-least-once": newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs()),
		"exactly-once":  newExactStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs()),
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			if name == "at-least-once" {
				s.set("CHECKPOINT_TOPIC=" + progressTopic(t, s.brokers)) // which is read in the gap
			}
			s.roll(name)
		})
	}
}

func (s *stage) roll(name string) {
	const restarts = 4
	streaming := s
	running := s.start("run")
	s.isReady(30 * time.Second)
	delays := s.watchDelays()
	written, stopWriting := s.writeSteadily()
	var longest time.Duration
	for range restarts {
		next := s.twin()
		standby := next.start("run")
		harness.Eventually(s.t, 30*time.Second, "standby", func() bool {
			code, word := next.ready()
			return code == 200 && word == "standby"
		})
		delays.Store(0)
		streaming.stop(running)
		next.isReady(30 * time.Second)
		harness.Eventually(s.t, 30*time.Second, "the new one streams", func() bool {
			code, word := next.ready()
			return code == 200 && word == "streaming"
		})
		time.Sleep(500 * time.Millisecond) // events of the new one come
		longest = max(longest, time.Duration(delays.Load()))
		streaming, running = next, standby
	}
	stopWriting()
	streaming.caughtUp(30 * time.Second)
	streaming.stop(running)
	r := s.checkExact() // a clean stop repeats nothing, in either guarantee
	fmt.Printf("FIGURES rolling restart, %s: %d instances replaced under %d events; the longest from commit to consumer %d ms; %s\n",
		name, restarts, written.Load(), longest.Milliseconds(), r)
}

// watchDelays keeps the longest time from a commit to the consumer, in nanoseconds.
func (s *stage) watchDelays() *atomic.Int64 {
	s.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.ConsumeTopics(s.topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	longest := new(atomic.Int64)
	go func() {
		for {
			fetches := c.PollFetches(s.t.Context())
			if fetches.IsClientClosed() || s.t.Context().Err() != nil {
				return
			}
			now := time.Now()
			fetches.EachRecord(func(r *kgo.Record) {
				longest.Store(max(longest.Load(), int64(now.Sub(r.Timestamp))))
			})
		}
	}()
	return longest
}

// writeSteadily commits an event every few milliseconds, until it is stopped.
func (s *stage) writeSteadily() (written *atomic.Int64, stop func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	conn := s.db.Connect(s.t)
	written, ended := new(atomic.Int64), make(chan error, 1)
	go func() {
		ticker := time.NewTicker(5 * time.Millisecond)
		defer ticker.Stop()
		for n := int64(1); ; n++ {
			select {
			case <-ctx.Done():
				ended <- nil
				return
			case <-ticker.C:
			}
			if err := harness.Fill(context.WithoutCancel(ctx), conn, harness.OneRow, n, n); err != nil {
				ended <- err
				return
			}
			written.Store(n)
		}
	}()
	return written, func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	}
}
