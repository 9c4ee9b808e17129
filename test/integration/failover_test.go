package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// pair is a primary, its standby and an outbox.
type pair struct {
	*stage
	primary, standby *testenv.PostgresServer
}

// newPair starts them. With guarded nothing that the standby does not have is sent to
// walpost: synchronized_standby_slots.
func newPair(t *testing.T, guarded bool) *pair {
	t.Helper()
	primary := envtest.NewPostgres(t, testenv.PostgresConfig{Version: "18"})
	standby := envtest.NewStandby(t, primary, map[string]string{"sync_replication_slots": "on"})
	if guarded {
		exec(t, primary, "ALTER SYSTEM SET synchronized_standby_slots = '"+testenv.StandbySlot+"'")
		exec(t, primary, "SELECT pg_reload_conf()")
	}
	db := envtest.Database{Name: "postgres", DSN: primary.DSN()}
	s := newStage(t, db, envtest.Kafka(t).Addrs())
	p := &pair{s, primary, standby}
	p.set("POSTGRES_DSN=" + bothHosts(t, s.slot, primary, standby))
	return p
}

func exec(t *testing.T, s *testenv.PostgresServer, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// bothHosts returns a DSN that lists the two, the standby first: which can be written
// to is found out.
func bothHosts(t *testing.T, role string, primary, standby *testenv.PostgresServer) string {
	t.Helper()
	a, err := pgx.ParseConfig(primary.DSN())
	if err != nil {
		t.Fatal(err)
	}
	b, err := pgx.ParseConfig(standby.DSN())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("postgres://%s:x@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable", role, b.Port, a.Port)
}

// slotCopied writes the first events until the standby has a usable copy of the slot: it
// takes none of a slot that needs rows of the catalog that the standby may have removed,
// and the slot moves on only with a description of the running transactions. It returns
// how many events there are.
func (p *pair) slotCopied() (events int64) {
	p.t.Helper()
	conn, err := pgx.Connect(p.t.Context(), p.standby.DSN())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	harness.Eventually(p.t, time.Minute, "a copy of the slot on the standby", func() bool {
		events++
		p.fill(harness.OneRow, events, events)
		p.caughtUp(time.Minute)
		if _, err := p.conn.Exec(p.t.Context(), "SELECT pg_log_standby_snapshot()"); err != nil {
			p.t.Fatal(err)
		}
		var ok bool
		err := conn.QueryRow(p.t.Context(), "SELECT synced AND NOT temporary AND invalidation_reason IS NULL FROM pg_replication_slots WHERE slot_name = $1", p.slot).Scan(&ok)
		return err == nil && ok
	})
	return events
}

// failOver kills the primary and promotes the standby, whose sessions the stage then
// uses.
func (p *pair) failOver() {
	p.t.Helper()
	if err := p.primary.Kill(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.promote()
}

func (p *pair) promote() {
	p.t.Helper()
	exec(p.t.(*testing.T), p.standby, "SELECT pg_promote()")
	p.db.DSN = p.standby.DSN()
	p.reconnect()
}

// A standby with a copy of the slot is promoted under load: walpost follows by its list
// of hosts, onto the new timeline, and publishes everything that has survived, in order.
func TestFailover(t *testing.T) {
	p := newPair(t, true)
	w := p.start("run")
	p.isReady(30 * time.Second)
	first := p.slotCopied() + 1
	filled := make(chan error, 1)
	go func() { filled <- harness.Fill(t.Context(), p.conn, harness.OneRow, first, 1_000_000) }()
	time.Sleep(3 * time.Second) // load
	p.failOver()
	promoted := time.Now()
	<-filled // cut off by the failover
	var next int64
	if err := p.conn.QueryRow(t.Context(), "SELECT max(seq) + 1 FROM outbox").Scan(&next); err != nil {
		t.Fatal(err)
	}
	p.fill(harness.OneRow, next, next+1000)
	p.caughtUp(time.Minute)
	took := time.Since(promoted)
	p.stop(w)
	r := p.check()
	fmt.Printf("FIGURES failover under load, synchronized_standby_slots: caught up %.1f s after the promotion; %s\n", took.Seconds(), r)
	if !strings.Contains(w.Log(), "stream interrupted") {
		t.Error("the stream was never interrupted: the test has shown nothing")
	}
}

// The standby lags when the primary dies: what it did not have is lost to the database,
// though Kafka may hold it. What has survived is published, and the order of each key is
// kept.
func TestFailoverOfLaggingStandby(t *testing.T) {
	p := newPair(t, false)
	w := p.start("run")
	p.isReady(30 * time.Second)
	p.fill(harness.OneRow, p.slotCopied()+1, 2000)
	p.caughtUp(time.Minute)
	exec(t, p.standby, "SELECT pg_wal_replay_pause()")
	if err := p.standby.Stop(t.Context(), testenv.Fast); err != nil { // it receives no more
		t.Fatal(err)
	}
	p.fill(harness.OneRow, 2001, 3000)
	p.arrived(3000, time.Minute)
	if err := p.primary.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.promote()
	var survived int64
	if err := p.conn.QueryRow(t.Context(), "SELECT max(seq) FROM outbox").Scan(&survived); err != nil {
		t.Fatal(err)
	}
	if survived >= 3000 {
		t.Fatal("nothing was lost: the test has shown nothing")
	}
	p.fill(harness.OneRow, 4001, 5000)
	harness.Eventually(t, time.Minute, "the new events in Kafka, or a refusal", func() bool {
		select {
		case <-w.Exited():
			return true
		default:
			return harness.Acknowledged(t.Context(), p.admin) > 0 && p.endReached()
		}
	})
	select {
	case <-w.Exited():
		t.Fatalf("walpost ended:\n%s", w.Log())
	default:
	}
	p.stop(w)
	ledger, err := harness.ReadLedger(t.Context(), p.conn, "outbox", "payload::text")
	if err != nil {
		t.Fatal(err)
	}
	r, err := harness.Check(t.Context(), p.brokers, ledger, p.topic)
	if err != nil {
		t.Fatal(err)
	}
	r.Examples = nil // of what the database lost
	fmt.Printf("FIGURES failover to a lagging standby: %d events survived of 3000, %d in Kafka that the database lost; %s\n", survived, r.Invented, r)
	if r.Lost+r.Reordered+r.Changed > 0 || r.Invented != int(3000-survived) {
		t.Errorf("%s, want %d that the database lost and nothing else", r, 3000-survived)
	}
}

// endReached reports whether what is committed now is acknowledged.
func (p *pair) endReached() bool {
	var end string
	err := p.conn.QueryRow(p.t.Context(), "SELECT pg_current_wal_lsn()::text").Scan(&end)
	return err == nil && harness.Acknowledged(p.t.Context(), p.admin) >= harness.MustLSN(p.t, end)
}
