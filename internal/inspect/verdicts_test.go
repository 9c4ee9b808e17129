package inspect

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// judged is a server on which things are made wrong.
type judged struct {
	*Postgres
	t *testing.T
}

func newJudged(t *testing.T, cfg testenv.PostgresConfig) judged {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), envtest.NewPostgres(t, cfg).DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	j := judged{&Postgres{Conn: conn, Slot: "orders"}, t}
	harness.Tables(t, conn)
	return j
}

func (j judged) exec(sql string) {
	j.t.Helper()
	if _, err := j.Conn.Exec(j.t.Context(), sql); err != nil {
		j.t.Fatalf("%s: %v", sql, err)
	}
}

// set changes a setting of the server.
func (j judged) set(name, value string) {
	j.t.Helper()
	j.exec("ALTER SYSTEM SET " + name + " = " + value)
	j.exec("SELECT pg_reload_conf()")
	j.exec("SELECT pg_sleep(0.5)")
}

func (j judged) want(check func(context.Context) (*Check, error), verdict Verdict, text, mend string) {
	j.t.Helper()
	c, err := check(j.t.Context())
	if err != nil || c == nil || c.Verdict != verdict || !strings.Contains(c.Text, text) || !strings.Contains(c.Mend, mend) {
		j.t.Errorf("got %+v, %v, want %s with %q and the mend %q", c, err, verdict, text, mend)
	}
}

func (j judged) none(check func(context.Context) (*Check, error)) {
	j.t.Helper()
	if c, err := check(j.t.Context()); c != nil || err != nil {
		j.t.Errorf("got %+v, %v, want nothing to say", c, err)
	}
}

// What only a server of 17 or 18 has.
func TestVerdictsOfNewServers(t *testing.T) {
	j := newJudged(t, testenv.PostgresConfig{Version: "18"})
	j.none(j.standbys)
	j.exec("SELECT pg_create_logical_replication_slot('orders', 'pgoutput')")
	j.exec("SELECT pg_create_physical_replication_slot('standby')")
	j.want(j.standbys, Warn, "is no failover slot", "postgres.failover")
	j.exec("SELECT pg_drop_replication_slot('orders')")
	j.exec("SELECT pg_create_logical_replication_slot('orders', 'pgoutput', failover => true)")
	j.want(j.standbys, Warn, "synchronized_standby_slots is empty", "synchronized_standby_slots")
	j.set("synchronized_standby_slots", "'standby'")
	j.want(j.standbys, OK, "waits for standby", "")

	j.none(j.idleTimeout)
	j.set("idle_replication_slot_timeout", "'10min'")
	j.want(j.idleTimeout, OK, "10m0s", "")
	j.exec("SELECT pg_create_logical_replication_slot('orders_bm_old', 'pgoutput')")
	j.exec("INSERT INTO walpost.checkpoint_log (slot, at, lsn, end_lsn, oldest_xid) VALUES ('orders_bm_old', now() - interval '6 minutes', '0/1', '0/1', '3')")
	j.want(j.idleTimeout, Warn, `bookmark "old"`, "raise idle_replication_slot_timeout")
}

// What is the same before 17, and a standby there.
func TestVerdicts(t *testing.T) {
	j := newJudged(t, testenv.PostgresConfig{Version: "15", Settings: map[string]string{"max_replication_slots": "4", "max_wal_senders": "4"}})
	j.exec("SELECT pg_create_logical_replication_slot('orders', 'pgoutput')")
	j.want(j.headRoom, Warn, "sets no limit", "max_slot_wal_keep_size")
	j.set("max_slot_wal_keep_size", "'96MB'")
	j.want(j.headRoom, OK, "of 96 MiB that it may", "")
	for range 4 {
		j.exec("SELECT pg_logical_emit_message(false, 'none', 'x'), pg_switch_wal()")
	}
	j.want(j.headRoom, Warn, "of 96 MiB that it may", "raise max_slot_wal_keep_size")

	j.exec("SELECT pg_create_physical_replication_slot('standby')")
	j.want(j.standbys, Warn, "cannot keep the slot there", "upgrade to 17")
	j.want(j.room, OK, "", "")
	j.exec("SELECT pg_create_physical_replication_slot('third'), pg_create_physical_replication_slot('fourth')")
	j.want(j.room, Warn, "", "max_replication_slots")

	j.want(j.clock, OK, "", "")
	j.want(j.commit, OK, "synchronous_commit is on", "")
	j.exec("SET synchronous_commit = local") // or this session would wait
	j.set("synchronous_standby_names", "'FIRST 1 (standby)'")
	j.want(j.commit, OK, "synchronous_commit is local", "")
	j.set("synchronous_standby_names", "'ANY 1 (*)'")
	j.want(j.commit, Warn, `synchronous_standby_names is "ANY 1 (*)"`, "name the standbys alone")
	j.set("synchronous_standby_names", "''")
	j.want(j.oldTransactions, OK, "none", "")
	other, err := pgx.ConnectConfig(t.Context(), j.Conn.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.WithoutCancel(t.Context())) }()
	if _, err := other.Exec(t.Context(), "BEGIN; SET application_name = 'left'; SELECT txid_current()"); err != nil {
		t.Fatal(err)
	}
	atOnce := func(ctx context.Context) (*Check, error) { return j.transactionsOlderThan(ctx, 0) }
	j.want(atOnce, Warn, "application 'left', idle in transaction", "end it")
	j.want(j.oldTransactions, OK, "none", "")
}

func TestClock(t *testing.T) {
	here := time.Now()
	for skew, want := range map[time.Duration]Verdict{0: OK, 900 * time.Millisecond: OK, -900 * time.Millisecond: OK, 1300 * time.Millisecond: Warn, -time.Hour: Warn} {
		c, err := judgeClock(here.Add(skew), here, 20*time.Millisecond)
		if err != nil || c.Verdict != want {
			t.Errorf("a clock that is %s ahead: %+v, %v, want %s", skew, c, err, want)
		}
	}
}
