package integration

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// newSnapshotStage is a stage whose slot is still to be made, behind n events in the table.
func newSnapshotStage(t *testing.T, brokers []string, guarantee string, n int64) *stage {
	t.Helper()
	s := newStage(t, envtest.NewDatabase(t), brokers)
	s.beforeSlot(t, guarantee, n)
	return s
}

// beforeSlot drops the slot, and writes n events in all ways: by subtransactions, and beside some
// that are rolled back. No vacuum is to give the place of these to later events meanwhile: rows are
// read as they lie, and checked by when they were written.
func (s *stage) beforeSlot(t *testing.T, guarantee string, n int64) {
	t.Helper()
	s.db.Exec(t, "SELECT pg_drop_replication_slot('"+s.slot+"')")
	s.db.Exec(t, "GRANT SELECT ON outbox TO "+s.slot)
	s.db.Exec(t, "ALTER TABLE outbox SET (autovacuum_enabled = false)")
	s.set("SNAPSHOT=initial", "DELIVERY_GUARANTEE="+guarantee)
	if guarantee == "exactly-once" {
		s.set("CHECKPOINT_TOPIC=" + s.topic + ".progress")
	}
	s.fill(harness.Rows, 1, n/2)
	s.fill(harness.OneTx, n/2+1, n-n/4)
	s.fill(harness.Copy, n-n/4+1, n)
}

// beside writes events n+1 to n+more while the snapshot is published, and returns when they are
// written.
func (s *stage) beside(n, more int64) <-chan error {
	written := make(chan error, 1)
	conn := s.db.Connect(s.t)
	go func() { written <- harness.Fill(s.t.Context(), conn, harness.OneRow, n+1, n+more) }()
	return written
}

func (s *stage) snapshotDone() bool {
	var done bool
	err := s.conn.QueryRow(s.t.Context(), "SELECT finished_at IS NOT NULL FROM walpost.snapshot").Scan(&done)
	return err == nil && done
}

// compareSnapshot compares what consumers see with the table.
func (s *stage) compareSnapshot(guarantee string) harness.Report {
	s.t.Helper()
	if guarantee == "exactly-once" {
		return s.checkExact()
	}
	return s.check()
}

// Rows that are older than the slot come before the stream, each once, while others are written.
func TestSnapshot(t *testing.T) {
	brokers := loadKafka(t)
	for _, guarantee := range []string{"at-least-once", "exactly-once"} {
		t.Run(guarantee, func(t *testing.T) {
			n := events(t)
			s := newSnapshotStage(t, brokers, guarantee, n)
			begun := time.Now()
			p := s.start("run")
			harness.Eventually(t, time.Minute, "the snapshot begins", func() bool { return strings.Contains(p.Log(), "snapshot: publishing") })
			written := s.beside(n, n/20)
			harness.Eventually(t, 10*time.Minute, "the snapshot is noted as published", s.snapshotDone)
			took := time.Since(begun)
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			s.caughtUp(5 * time.Minute)
			if text := s.walpost("status"); !strings.Contains(text, "chunks handed over, ") || !strings.Contains(text, humanize.Comma(n)+" rows since the start") {
				t.Errorf("status does not tell of the snapshot:\n%s", text)
			}
			s.stop(p)
			r := s.compareSnapshot(guarantee)
			if r.Duplicated > 0 {
				t.Errorf("%d duplicates without a kill", r.Duplicated)
			}
			fmt.Printf("FIGURES snapshot, %s: %d rows before the slot, published after %.1f s, %.0f rows/s beside a writer; peak RSS %.1f MiB, CPU %.1f s; %s\n",
				guarantee, n, took.Seconds(), float64(n)/took.Seconds(), float64(p.PeakRSS())/(1<<20), p.CPU().Seconds(), r)
			if p.PeakRSS() > maxRSS {
				t.Errorf("peak RSS %d bytes, want at most %d", p.PeakRSS(), maxRSS)
			}
			s.walpost("purge", "--older-than", "0", "--dry-run")
		})
	}
}

// inFlight is how many events may be in flight when a process is killed, and were handed over since
// the last save: 16 MiB, and as many in a tenth of a second.
const inFlight = 60_000

// The same under kill -9 and SIGTERM at random moments of the snapshot.
func TestSnapshotInterrupted(t *testing.T) {
	brokers := loadKafka(t)
	for _, guarantee := range []string{"at-least-once", "exactly-once"} {
		t.Run(guarantee, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			n := events(t)
			s := newSnapshotStage(t, brokers, guarantee, n)
			s.set("CHECKPOINT_INTERVAL=100ms")
			written := s.beside(n, n/20)
			kills, terms, within := 0, 0, 0
			for !s.snapshotDone() && kills+terms < 60 {
				p := s.start("run")
				harness.Eventually(t, time.Minute, "the snapshot goes on, or is over", func() bool {
					return strings.Contains(p.Log(), "snapshot: publishing") || s.snapshotDone()
				})
				time.Sleep(time.Duration(rng.Int64N(int64(100 * time.Millisecond)))) // the moment is the test
				if kills+terms == 3 {
					purge := s.start("purge", "--older-than", "0", "--dry-run")
					if s.wait(purge, time.Minute); !strings.Contains(purge.Log(), "has not ended") && !s.snapshotDone() {
						t.Errorf("purge beside a snapshot: %s", purge.Log())
					}
				}
				if rng.IntN(4) == 0 {
					terms++
					s.stop(p)
				} else {
					kills++
					p.Signal(syscall.SIGKILL)
					<-p.Exited()
				}
				if !s.snapshotDone() {
					within++
				}
			}
			p := s.start("run")
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			s.caughtUp(5 * time.Minute)
			harness.Eventually(t, time.Minute, "the snapshot is noted as published", s.snapshotDone)
			s.stop(p)
			if within < 3 {
				t.Errorf("%d interruptions within the snapshot, want some", within)
			}
			r := s.compareSnapshot(guarantee)
			if limit := kills * inFlight; r.Duplicated > limit {
				t.Errorf("%d duplicates after %d kills, want what was in flight: %d at most", r.Duplicated, kills, limit)
			}
			fmt.Printf("FIGURES snapshot, %s, interrupted %d times by kill -9 and %d by SIGTERM, %d times before its end: %s\n",
				guarantee, kills, terms, within, r)
		})
	}
}

// With a column to order by, the rows come in its order, however they lie in the table.
func TestSnapshotInOrder(t *testing.T) {
	const n = 20_000
	s := newSnapshotStage(t, envtest.Kafka(t).Addrs(), "at-least-once", 0)
	s.db.Exec(t, fmt.Sprintf("INSERT INTO outbox SELECT e.* FROM generate_series(1, %d) i, event(%[1]d + 1 - i) e", n))
	s.db.Exec(t, "CREATE INDEX ON outbox (seq)")
	s.set("OUTBOX_ORDER_BY=seq")
	p := s.start("run")
	harness.Eventually(t, 2*time.Minute, "the snapshot is noted as published", s.snapshotDone)
	s.stop(p)
	r := s.check()
	if r.Duplicated > 0 {
		t.Errorf("%d duplicates", r.Duplicated)
	}
	fmt.Printf("FIGURES snapshot in the order of a column, of rows that lie the other way round: %s\n", r)
}

// A standby goes on with the snapshot where the first instance was killed.
func TestSnapshotTakeOver(t *testing.T) {
	for _, guarantee := range []string{"at-least-once", "exactly-once"} {
		t.Run(guarantee, func(t *testing.T) {
			n := events(t)
			s := newSnapshotStage(t, envtest.Kafka(t).Addrs(), guarantee, n)
			s.set("CHECKPOINT_INTERVAL=100ms")
			first := s.start("run")
			harness.Eventually(t, time.Minute, "the snapshot begins", func() bool { return strings.Contains(first.Log(), "snapshot: publishing") })
			other := *s
			other.env = append([]string{}, s.env...)
			other.admin = harness.FreeAddr(t)
			other.set("ADMIN_LISTEN=" + other.admin)
			second := other.start("run")
			s.arrived(n/10, time.Minute)
			first.Signal(syscall.SIGKILL)
			<-first.Exited()
			if s.snapshotDone() {
				t.Error("the snapshot was over before the first was killed")
			}
			harness.Eventually(t, 2*time.Minute, "the snapshot is noted as published", s.snapshotDone)
			other.caughtUp(time.Minute)
			other.stop(second)
			fmt.Printf("FIGURES snapshot, %s, the first instance killed in it, and a standby goes on: %s\n", guarantee, s.compareSnapshot(guarantee))
		})
	}
}

// Postgres is restarted in the middle, which ends the exported snapshot too. The living process
// repeats nothing.
func TestSnapshotPostgresRestarts(t *testing.T) {
	s, pg, _ := newFaultyStage(t, "")
	n := events(t)
	s.beforeSlot(t, "at-least-once", n)
	p := s.start("run")
	for i := range 3 {
		s.arrived(n*int64(i+1)/10, time.Minute)
		if err := pg.Restart(t.Context(), testenv.Immediate); err != nil {
			t.Fatal(err)
		}
	}
	s.reconnect()
	harness.Eventually(t, 2*time.Minute, "the snapshot is noted as published", s.snapshotDone)
	s.fill(harness.OneRow, n+1, n+100)
	s.arrived(n+100, time.Minute)
	s.stop(p)
	r := s.check()
	if r.Duplicated > 0 {
		t.Errorf("%d duplicates in one process", r.Duplicated)
	}
	fmt.Printf("FIGURES snapshot, Postgres restarted 3 times in it: %s\n", r)
	if cut := strings.Count(p.Log(), "snapshot: publishing") - 1; cut < 2 {
		t.Errorf("the snapshot was cut %d times", cut)
	}
}
