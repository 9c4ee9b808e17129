package integration

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// senderTimeout is short, so that a stream that is not kept alive is cut within
// a test's time.
const senderTimeout = 5 * time.Second

// newFaultyStage has servers of its own, which the test may stop.
func newFaultyStage(t *testing.T, version string) (*stage, *testenv.PostgresServer, *testenv.KafkaServer) {
	t.Helper()
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: version, Settings: map[string]string{
		"wal_sender_timeout": senderTimeout.String(), "fsync": "on", "synchronous_commit": "off",
	}})
	kafka := envtest.NewKafka(t, testenv.KafkaConfig{})
	db := envtest.Database{Name: "postgres", DSN: pg.DSN(), SocketDSN: pg.SocketDSN()}
	return newStage(t, db, kafka.Addrs()), pg, kafka
}

// reconnect replaces the stage's own connection after a restart of the server.
func (s *stage) reconnect() {
	s.t.Helper()
	harness.Eventually(s.t, 30*time.Second, "connect to Postgres", func() bool {
		conn, err := pgx.Connect(s.t.Context(), s.db.DSN)
		if err == nil {
			s.conn = conn
			s.t.Cleanup(func() { _ = conn.Close(context.Background()) })
		}
		return err == nil
	})
}

// Kafka is away for three times the wal_sender_timeout: walpost stays, says so,
// keeps the stream and its memory, and delivers when Kafka is back.
func TestKafkaAway(t *testing.T) {
	s, _, kafka := newFaultyStage(t, "")
	p := s.start("run")
	s.fill(harness.OneRow, 1, 1000)
	s.arrived(1000, time.Minute)
	if err := kafka.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone := time.Now()
	s.fill(harness.Rows, 1001, 200_000)
	harness.Eventually(t, 30*time.Second, "/readyz 503", func() bool { code, _ := s.ready(); return code == 503 })
	_, reason := s.ready()
	for time.Since(gone) < 3*senderTimeout {
		select {
		case <-p.Exited():
			t.Fatalf("walpost ended:\n%s", p.Log())
		case <-time.After(time.Second):
		}
	}
	if strings.Contains(p.Log(), "stream interrupted") {
		t.Error("the stream was interrupted though only Kafka was away")
	}
	back := time.Now()
	if err := kafka.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.isReady(time.Minute)
	s.arrived(200_000, 2*time.Minute)
	took := time.Since(back)
	s.caughtUp(time.Minute)
	s.stop(p)
	r := s.check()
	rss := p.PeakRSS()
	fmt.Printf("FIGURES Kafka away for %s, wal_sender_timeout %s: not ready because %q; caught up %.1f s after its start; peak RSS %.1f MiB; %s\n",
		back.Sub(gone).Round(time.Second), senderTimeout, reason, took.Seconds(), float64(rss)/(1<<20), r)
	if r.Duplicated > 0 || rss > maxRSS {
		t.Errorf("%d duplicates, peak RSS %d", r.Duplicated, rss)
	}
}

// A start while Kafka is away waits for it, with all else done and once only, and streams
// when it is back.
func TestStartWhileKafkaIsAway(t *testing.T) {
	s, _, kafka := newFaultyStage(t, "")
	s.fill(harness.OneRow, 1, 100)
	p := s.start("run")
	s.arrived(100, time.Minute)
	s.stop(p)
	const epoch = "SELECT epoch FROM walpost.checkpoint WHERE slot = $1"
	before := s.number(epoch, s.slot)
	if err := kafka.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.fill(harness.OneRow, 101, 200)
	p = s.start("run")
	const away = 25 * time.Second // longer than the client library repeats a request
	select {
	case <-p.Exited():
		t.Fatalf("walpost ended:\n%s", p.Log())
	case <-time.After(away):
	}
	if tries := strings.Count(p.Log(), "stream interrupted") + strings.Count(p.Log(), "open stream"); tries > 0 {
		t.Errorf("the stream was opened %d times more while Kafka was away:\n%s", tries, p.Log())
	}
	_, reason := s.ready()
	if err := kafka.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	s.arrived(200, 30*time.Second)
	took := time.Since(back)
	s.stop(p)
	if starts := s.number(epoch, s.slot) - before; starts != 1 {
		t.Errorf("the checkpoint was acquired %d times", starts)
	}
	fmt.Printf("FIGURES started while Kafka is away, for %s: not ready because %q; all delivered %.2f s after Kafka was back; %s\n", away, reason, took.Seconds(), s.check())

	begun := time.Now()
	s.fill(harness.OneRow, 201, 201)
	p = s.start("run")
	s.nextRecord(200)
	fmt.Printf("FIGURES start of the process to its first record: %d ms\n", time.Since(begun).Milliseconds())
	s.stop(p)
}

// Postgres is restarted under load. The stream goes on by itself, and the living
// process repeats nothing.
func TestPostgresRestarts(t *testing.T) {
	for _, mode := range []testenv.StopMode{testenv.Fast, testenv.Immediate} {
		t.Run(map[testenv.StopMode]string{testenv.Fast: "Fast", testenv.Immediate: "Immediate"}[mode], func(t *testing.T) {
			s, pg, _ := newFaultyStage(t, "")
			p := s.start("run")
			s.isReady(30 * time.Second)
			next, longest := int64(1), time.Duration(0)
			for range 5 {
				filled := make(chan error, 1)
				first := next
				go func() { filled <- harness.Fill(t.Context(), s.conn, harness.OneRow, first, first+100_000) }()
				time.Sleep(500 * time.Millisecond) // load
				if err := pg.Restart(t.Context(), mode); err != nil {
					t.Fatal(err)
				}
				restarted := time.Now()
				<-filled // cut off by the restart
				s.reconnect()
				if err := s.conn.QueryRow(t.Context(), "SELECT max(seq) + 1 FROM outbox").Scan(&next); err != nil {
					t.Fatal(err)
				}
				s.fill(harness.OneRow, next, next)
				next++
				s.caughtUp(time.Minute)
				longest = max(longest, time.Since(restarted))
			}
			s.stop(p)
			r := s.check()
			fmt.Printf("FIGURES Postgres restarted 5 times under load: longest until caught up %.1f s; %s\n", longest.Seconds(), r)
			if r.Duplicated > 0 {
				t.Errorf("%d duplicates in one process", r.Duplicated)
			}
		})
	}
}

// A fast shutdown of Postgres waits for walsenders, which wait for their
// clients: while Kafka is away walpost must not be what it waits for.
func TestFastShutdownWhileKafkaIsAway(t *testing.T) {
	s, pg, kafka := newFaultyStage(t, "")
	p := s.start("run")
	s.isReady(30 * time.Second)
	if err := kafka.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.fill(harness.Rows, 1, 100_000)
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := pg.Stop(ctx, testenv.Fast); err != nil {
		t.Fatalf("fast shutdown: %v\n%s", err, p.Log())
	}
	took := time.Since(begun)
	if err := pg.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := kafka.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.reconnect()
	s.arrived(100_000, 2*time.Minute)
	s.caughtUp(time.Minute)
	s.stop(p)
	r := s.check()
	fmt.Printf("FIGURES fast shutdown of Postgres while Kafka is away: %.2f s; %s\n", took.Seconds(), r)
	if r.Duplicated > 0 {
		t.Errorf("%d duplicates in one process", r.Duplicated)
	}
}

// Two transactions overlap in WAL, and walpost is killed between their commits:
// whichever commits first, nothing is lost.
func TestOverlappingTransactions(t *testing.T) {
	for _, firstCommits := range []bool{true, false} {
		t.Run(map[bool]string{true: "FirstBegunFirst", false: "LastBegunFirst"}[firstCommits], func(t *testing.T) {
			s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
			p := s.start("run")
			s.isReady(30 * time.Second)
			txs := []pgx.Tx{begin(t, s), begin(t, s)}
			for n := range int64(20) {
				if _, err := txs[n%2].Exec(t.Context(), "INSERT INTO outbox SELECT e.* FROM event($1) e", n+1); err != nil {
					t.Fatal(err)
				}
			}
			if !firstCommits {
				txs[0], txs[1] = txs[1], txs[0]
			}
			commit(t, txs[0])
			s.arrived(10, 30*time.Second)
			s.caughtUp(30 * time.Second)
			p.Signal(syscall.SIGKILL)
			s.wait(p, 10*time.Second)
			commit(t, txs[1])
			p = s.start("run")
			s.arrived(20, 30*time.Second)
			s.stop(p)
			fmt.Printf("FIGURES overlapping transactions, killed between the commits: %s\n", s.check())
		})
	}
}

func begin(t *testing.T, s *stage) pgx.Tx {
	t.Helper()
	tx, err := s.db.Connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func commit(t *testing.T, tx pgx.Tx) {
	t.Helper()
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A second instance waits as a standby, says so, and takes over when the first is
// gone, without an event lost or out of order.
func TestTakeOver(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	first := s.start("run")
	s.isReady(30 * time.Second)
	s.fill(harness.OneRow, 1, 2000)
	other := *s
	other.env = append([]string{}, s.env...)
	other.admin = harness.FreeAddr(t)
	other.set("ADMIN_LISTEN=" + other.admin)
	second := other.start("run")
	harness.Eventually(t, 30*time.Second, "standby", func() bool {
		code, word := other.ready()
		return code == 200 && word == "standby"
	})
	for addr, want := range map[string]float64{s.admin: 0, other.admin: 1} {
		standby, _ := harness.Metric(t.Context(), addr, `walpost_standby{slot="`+s.slot+`"}`)
		if _, lag := harness.Metric(t.Context(), addr, "walpost_lag_seconds"); standby != want || lag != (want == 0) {
			t.Errorf("walpost_standby is %.0f, want %.0f; has a lag: %t", standby, want, lag)
		}
	}
	if i := other.status().Slots[0].Instance; i == nil || !i.Standby {
		t.Errorf("got %+v, want a standby", i)
	}
	killed := time.Now()
	first.Signal(syscall.SIGKILL)
	s.fill(harness.OneRow, 2001, 4000)
	other.caughtUp(30 * time.Second)
	fmt.Printf("FIGURES take-over by a standby after kill -9: caught up after %.1f s; ", time.Since(killed).Seconds())
	other.stop(second)
	fmt.Println(other.check())
}
