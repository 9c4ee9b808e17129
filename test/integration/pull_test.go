package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// pulls counts how often a process has begun to pull.
func pulls(p *harness.Process) int { return strings.Count(p.Log(), "pulling a backlog") }

// Kafka goes away in the middle of a pull: the query ends, since it would hold vacuum
// back, and when Kafka is there again all goes on, in the same process and without a
// repetition.
func TestKafkaAwayWhilePulling(t *testing.T) {
	s, _, kafka := newFaultyStage(t, "")
	s.set("POSTGRES_PULL_ABOVE=1MiB")
	const n = 150_000
	s.fill(harness.Rows, 1, n)
	p := s.start("run")
	s.arrived(1000, time.Minute)
	if err := kafka.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := pulls(p)
	harness.Eventually(t, time.Minute, "no query that holds vacuum back", func() bool {
		return s.number("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND backend_xmin IS NOT NULL") == 0
	})
	if err := kafka.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.arrived(n, 2*time.Minute)
	s.caughtUp(time.Minute)
	s.stop(p)
	r := s.check()
	fmt.Printf("FIGURES Kafka away in the middle of a pull: %s\n", r)
	if got != 1 || r.Duplicated > 0 {
		t.Errorf("%d pulls before Kafka went, want 1; %d duplicates, want none", got, r.Duplicated)
	}
}

// A stop inside a transaction that is being pulled saves how far it got, and a process
// that streams goes on there.
func TestStopInsidePulledTransaction(t *testing.T) {
	s, _, _ := newFaultyStage(t, "")
	const n = 300_000
	s.fill(harness.OneTx, 1, n)
	pulling := *s
	pulling.env = append([]string{}, s.env...)
	pulling.set("POSTGRES_PULL_ABOVE=1MiB")
	inside, pulled := 0, 0
	for range 4 {
		before := s.count()
		p := pulling.start("run")
		harness.Eventually(t, time.Minute, "more records", func() bool { return s.count() > before })
		s.stop(p)
		pulled += pulls(p)
		if s.insideTransaction() {
			inside++
		}
	}
	s.set("POSTGRES_PULL_ABOVE=0")
	p := s.start("run")
	s.arrived(n, 2*time.Minute)
	s.caughtUp(time.Minute)
	s.stop(p)
	r := s.check()
	fmt.Printf("FIGURES stopped %d times inside a transaction of %d rows that was pulled, then streamed: %s\n", inside, n, r)
	if inside == 0 || pulled == 0 || pulls(p) > 0 || r.Duplicated > 0 {
		t.Errorf("%d stops inside, %d pulls, %d of the last process, %d duplicates", inside, pulled, pulls(p), r.Duplicated)
	}
}

// count is how many records Kafka has.
func (s *stage) count() int64 {
	s.t.Helper()
	n, err := harness.Count(s.t.Context(), s.brokers, s.topic)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}
