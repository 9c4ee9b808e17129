package crash

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// TestCrash breaks walpost between a real Postgres and a real Kafka. If nothing is asked
// for, a quarter of the faults of at-least-once hit three shards.
func TestCrash(t *testing.T) {
	faults := slices.Concat(processFaults, clockFaults, postgresFaults, brokerFaults, networkFaults(pgSide), networkFaults(kafkaSide),
		pullFaults, tableFaults, spillFaults, limitFaults, poisonFaults)
	eachGuarantee(t, func(t *testing.T, exact bool, n int) {
		of, sharded := checkpointFaults, 0
		if exact {
			of = transactionFaults
		}
		if *guarantee == "" && !exact && *shardCount == 1 {
			sharded = n / 4
			runBlocks(t, sharded, mode{real: true, shards: 3}, slices.Concat(faults, of))
		}
		runBlocks(t, n-sharded, mode{real: true, exact: exact, shards: *shardCount}, slices.Concat(faults, of))
	})
}

// TestCrashBroker breaks an in-process broker, in ways that a single real one
// cannot be made to show.
func TestCrashBroker(t *testing.T) {
	faults := slices.Concat(fakeFaults, processFaults, networkFaults(pgSide))
	eachGuarantee(t, func(t *testing.T, exact bool, n int) {
		of := faults
		if exact {
			of = slices.Concat(faults, fakeTransactionFaults)
		}
		runBlocks(t, max(1, n/5), mode{exact: exact, shards: *shardCount}, of)
	})
}

// mode is what a block is about.
type mode struct {
	real   bool // a real broker
	exact  bool // exactly-once
	shards int  // 1 for none
}

func (m mode) String() string {
	s := "in-process broker"
	if m.real {
		s = "real servers"
	}
	if m.exact {
		s += ", exactly-once"
	}
	if m.shards > 1 {
		s += fmt.Sprintf(", %d shards", m.shards)
	}
	return s
}

func (m mode) guarantee() string {
	if m.exact {
		return exactlyOnce
	}
	return atLeastOnce
}

// eachGuarantee runs the guarantee that is asked for, or both with fewer faults in
// the second.
func eachGuarantee(t *testing.T, run func(t *testing.T, exact bool, n int)) {
	if g := *guarantee; g != "" && g != atLeastOnce && g != exactlyOnce {
		t.Fatalf("-guarantee %q: want %s, %s or nothing for both", g, atLeastOnce, exactlyOnce)
	}
	for _, name := range []string{atLeastOnce, exactlyOnce} {
		n := *faultCount
		if *guarantee == "" && name == exactlyOnce {
			n = max(1, n*3/4)
		}
		if *guarantee == "" || *guarantee == name {
			t.Run(name, func(t *testing.T) { run(t, name == exactlyOnce, n) })
		}
	}
}

func runBlocks(t *testing.T, n int, m mode, faults []fault) {
	seed := cmp.Or(*seedFlag, uint64(time.Now().UnixNano()))
	if m.shards > 1 {
		faults = slices.Concat(faults, shardFaults)
	}
	if faults = only(t, faults); len(faults) == 0 {
		t.Skip("no fault is called " + *onlyFaults)
	}
	fmt.Printf("seed %d\n", seed)
	for block := *firstBlock; n > 0; block++ {
		size := min(n, blockSize)
		n -= size
		t.Run(fmt.Sprintf("block%d, %s", block, m), func(t *testing.T) {
			defer func() {
				if test, _, _ := strings.Cut(t.Name(), "/"); t.Failed() {
					fmt.Printf("failed: again with -run '%s$' -guarantee %s -shards %d -seed %d -block %d -faults %d\n", test, m.guarantee(), m.shards, seed, block, size)
				}
			}()
			runBlock(t, newStage(t, seed, block, m), size, faults)
		})
		if t.Failed() {
			return
		}
	}
}

// recovery is how long a fault's end was from the first event that was written
// after it and came to Kafka.
type recovery struct {
	fault string
	took  time.Duration
}

func runBlock(t *testing.T, s *stage, n int, faults []fault) {
	begun := time.Now()
	end := s.begin()
	var recoveries []recovery
	kinds := map[string]int{}
	faults = s.possible(faults)
	for i, p := range plan(faults, n, s.random(faultStream)) {
		s.waitFor(p.moment)
		s.ledger.begin(p.name)
		began := time.Now()
		s.over = time.Time{}
		kinds[p.name]++
		s.pick(p.seed)
		if err := p.run(t.Context(), s, rand.New(rand.NewPCG(p.seed, 0))); err != nil {
			s.problem("fault %d, %s: %v", i+1, p.name, err)
		}
		s.ended()
		took, note := s.recover(p), ""
		if took > slowRecovery {
			t.Logf("slow recovery from %s; the logs end:\n%s", p.name, s.logs())
		}
		if took > 0 {
			recoveries = append(recoveries, recovery{p.name, took})
			note = fmt.Sprintf(", recovered in %.2f s", took.Seconds())
		}
		t.Logf("fault %d of %d: %s, over after %.2f s%s", i+1, n, p.name, s.over.Sub(began).Seconds(), note)
		if len(s.problems) > 5 || s.stuck {
			break
		}
	}
	end()
	report(t, s, s.judge(), kinds, recoveries, time.Since(begun))
}

func (s *stage) judge() verdict {
	if s.exact {
		s.each(func() { judgeCommits(s.ledger, s.progress.all, s.sampler.samples) })
	}
	return judge(s.ledger, s.accounts()...)
}

// waitFor waits for a fault's moment, which must come soon.
func (s *stage) waitFor(m moment) {
	if m.large > 0 {
		_ = s.probe.write(s.t.Context(), largeRows(m.large)) // the server may be away after the fault before
	} else {
		from := s.ledger.size()
		_ = s.until(3*time.Second, "events", func() bool { return s.ledger.size() >= from+m.events })
	}
	<-time.After(m.delay) // the moment is the test
}

// largeRows writes so many rows of the session's own keys.
func largeRows(n int) func(ctx context.Context, t *txn) error {
	return func(ctx context.Context, t *txn) error {
		for left := n; left > 0; left -= 1000 {
			if err := t.insert(ctx, t.table(), t.rows(min(left, 1000), t.own)); err != nil {
				return err
			}
		}
		return nil
	}
}

// ended says that the fault is over.
func (s *stage) ended() {
	if s.over.IsZero() {
		s.over = time.Now()
	}
}

const (
	// maxRecovery is how long it may take until walpost works again.
	maxRecovery = 60 * time.Second

	// slowRecovery is from when on the log is shown.
	slowRecovery = 2 * time.Second
)

// recover waits until an event of each shard that was written after the fault is in
// Kafka, and returns how long after the fault's end that was. It returns 0 if the next fault
// is to come sooner than that.
func (s *stage) recover(p planned) time.Duration {
	s.alive()
	if p.hasty {
		return 0
	}
	marks := s.mark()
	err := s.until(maxRecovery, "recovery from "+p.name, func() bool {
		s.alive()
		_, ok := s.ledger.seen(marks)
		return ok
	})
	if err != nil {
		s.problem("%v; the logs end:\n%s", err, s.logs())
		s.stuck = true
		return 0
	}
	at, _ := s.ledger.seen(marks)
	return max(time.Millisecond, at.Sub(s.over))
}

// mark writes one event of each shard, as soon as the server takes it.
func (s *stage) mark() (marks []*event) {
	s.t.Helper()
	if err := s.until(maxRecovery, "the writer can write", func() bool {
		return s.probe.write(s.t.Context(), func(ctx context.Context, t *txn) error {
			var rows []row
			for shard := range s.shards {
				rows = append(rows, t.rows(1, func() *key { return t.ownOf(shard) })...)
			}
			marks = t.tx.events
			return t.insert(ctx, "outbox", rows)
		}) == nil
	}); err != nil {
		s.t.Fatal(err)
	}
	return marks
}

// finish waits until all is in Kafka, and stops each walpost.
func (s *stage) finish() {
	s.alive()
	marks := s.mark()
	_ = s.until(maxRecovery, "the last events in Kafka", func() bool { _, ok := s.ledger.seen(marks); return ok })
	_ = s.until(10*time.Second, "all in Kafka", func() bool { _, missing := s.ledger.counts(); return missing == 0 })
	// What is missing then is lost.
	s.each(func() {
		if err := s.stop(s.main); err != nil {
			s.problem("last stop: %v", err)
		}
	})
	s.readAll(s.ledger.records, s.ledger.topics...)
	if s.exact {
		s.each(func() { s.readAll(s.progress.read, progressTopic) })
	}
}

// readAll waits until all that the topics hold is read.
func (s *stage) readAll(read func() int64, topics ...string) {
	in, err := harness.Count(s.t.Context(), s.brokers, topics...)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.until(30*time.Second, fmt.Sprintf("read all of %d records in %s", in, topics), func() bool { return read() >= in }); err != nil {
		s.t.Fatalf("%v; %d are read", err, read())
	}
	if read := read(); read > in {
		s.problem("%s hold %d records, after %d had been read: Kafka has lost some", topics, in, read)
	}
}

// recovered waits until events that are written now are in Kafka, for a fault that
// needs to know what came before it.
func (s *stage) recovered() error {
	marks := s.mark()
	return s.until(maxRecovery, "recovery from the fault before", func() bool {
		s.alive()
		_, ok := s.ledger.seen(marks)
		return ok
	})
}
