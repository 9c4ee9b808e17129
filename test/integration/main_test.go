package integration

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

var binDir string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "walpost-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binDir = dir
	return envtest.Main(m, harness.ProxyGoroutines()...)
}

// events is how many events a heavy test writes in each shape: 100,000, or what
// WALPOST_TEST_EVENTS says. The promise is on a million: make proof.
func events(t testing.TB) int64 {
	t.Helper()
	text := os.Getenv("WALPOST_TEST_EVENTS")
	if text == "" {
		return 100_000
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("WALPOST_TEST_EVENTS: %v", err)
	}
	return n
}

// stage is an outbox and what walpost needs to publish it.
type stage struct {
	t       testing.TB
	db      envtest.Database
	conn    *pgx.Conn
	brokers []string
	topic   string
	slot    string
	admin   string // address
	env     []string
}

const partitions = 12

// newStage sets up an outbox table, a slot and a topic of their own. Walpost runs as the
// role that its init has made, which has no more rights than it needs.
func newStage(t testing.TB, db envtest.Database, brokers []string) *stage {
	t.Helper()
	s := &stage{
		t: t, db: db, conn: db.Connect(t), brokers: brokers,
		topic: envtest.CreateTopic(t, brokers, partitions, nil), slot: envtest.Name(t), admin: harness.FreeAddr(t),
	}
	if err := harness.Setup(t.Context(), s.conn, "walpost"); err != nil {
		t.Fatal(err)
	}
	s.env = []string{
		"WALPOST_POSTGRES_DSN=" + db.DSN, "WALPOST_POSTGRES_SLOT=" + s.slot, "WALPOST_KAFKA_BROKERS=" + strings.Join(brokers, ","),
		"WALPOST_OUTBOX_TOPIC=" + s.topic, "WALPOST_ADMIN_LISTEN=" + s.admin,
	}
	s.walpost("init", "--no-table", "--role", s.slot)
	s.db.Exec(t, "ALTER ROLE "+s.slot+" PASSWORD 'x'")
	t.Cleanup(func() { s.dropRole(s.slot) })
	s.set("POSTGRES_DSN=" + s.dsnWith(t, s.slot, "x"))
	return s
}

// set adds settings, as NAME=value without the prefix.
func (s *stage) set(settings ...string) {
	for _, kv := range settings {
		s.env = append(s.env, "WALPOST_"+kv)
	}
}

func (s *stage) start(args ...string) *harness.Process {
	s.t.Helper()
	path, err := harness.Binary(binDir)
	if err != nil {
		s.t.Fatal(err)
	}
	return harness.Start(s.t, path, s.env, args...)
}

// walpost runs a command that must succeed, and returns what it printed.
func (s *stage) walpost(args ...string) string {
	s.t.Helper()
	p := s.start(args...)
	if code := s.wait(p, time.Minute); code != 0 {
		s.t.Fatalf("walpost %s: exit %d\n%s", strings.Join(args, " "), code, p.Log())
	}
	return p.Log()
}

func (s *stage) wait(p *harness.Process, limit time.Duration) int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, p.Log())
	}
	return code
}

// stop asks walpost to stop and wants it to do so cleanly.
func (s *stage) stop(p *harness.Process) {
	s.t.Helper()
	p.Signal(syscall.SIGTERM)
	if code := s.wait(p, 30*time.Second); code != 0 {
		s.t.Fatalf("exit %d after SIGTERM\n%s", code, p.Log())
	}
}

func (s *stage) fill(shape harness.Shape, first, last int64) {
	s.t.Helper()
	if err := harness.Fill(s.t.Context(), s.conn, shape, first, last); err != nil {
		s.t.Fatal(err)
	}
}

// arrived waits until at least n records are in Kafka.
func (s *stage) arrived(n int64, limit time.Duration) {
	s.t.Helper()
	harness.Eventually(s.t, limit, fmt.Sprintf("%d records in Kafka", n), func() bool {
		got, err := harness.Count(s.t.Context(), s.brokers, s.topic)
		return err == nil && got >= n
	})
}

// caughtUp waits until everything that is committed now is acknowledged, as
// walpost itself says: it is asked for its watermark, not for a count.
func (s *stage) caughtUp(limit time.Duration) {
	s.t.Helper()
	s.caughtUpEvery(harness.PollInterval, limit)
}

// caughtUpEvery asks less often: the metrics of many topics are long.
func (s *stage) caughtUpEvery(interval, limit time.Duration) {
	s.t.Helper()
	s.flush()
	var end string
	if err := s.conn.QueryRow(s.t.Context(), "SELECT pg_current_wal_lsn()::text").Scan(&end); err != nil {
		s.t.Fatal(err)
	}
	harness.EventuallyEvery(s.t, interval, limit, "watermark at "+end, func() bool {
		return harness.Acknowledged(s.t.Context(), s.admin) >= harness.MustLSN(s.t, end)
	})
}

// flush waits until all that has committed is written to WAL, on a server that does not wait for it.
func (s *stage) flush() {
	s.t.Helper()
	var setting string
	if err := s.conn.QueryRow(s.t.Context(), "SHOW synchronous_commit").Scan(&setting); err != nil {
		s.t.Fatal(err)
	}
	if setting != "off" {
		return
	}
	for _, sql := range []string{"SET synchronous_commit = on", "SELECT pg_logical_emit_message(true, 'flush', '')", "RESET synchronous_commit"} {
		if _, err := s.conn.Exec(s.t.Context(), sql); err != nil {
			s.t.Fatal(err)
		}
	}
}

// check compares Kafka with the table.
func (s *stage) check() harness.Report { return s.compare(harness.Check) }

type check func(context.Context, []string, harness.Ledger, ...string) (harness.Report, error)

func (s *stage) compare(check check) harness.Report {
	s.t.Helper()
	return s.compareWith(s.ledger(), check, s.topic)
}

// ledger is what the table says.
func (s *stage) ledger() harness.Ledger {
	s.t.Helper()
	ledger, err := harness.ReadLedger(s.t.Context(), s.conn, "outbox", "payload::text")
	if err != nil {
		s.t.Fatal(err)
	}
	return ledger
}

func (s *stage) compareWith(ledger harness.Ledger, check check, topics ...string) harness.Report {
	s.t.Helper()
	r, err := check(s.t.Context(), s.brokers, ledger, topics...)
	if err != nil {
		s.t.Fatal(err)
	}
	if !r.OK() {
		s.t.Errorf("%s", r)
	}
	return r
}

func (s *stage) ready() (int, string) { return harness.Ready(s.t.Context(), s.admin) }

func (s *stage) isReady(limit time.Duration) {
	s.t.Helper()
	harness.Eventually(s.t, limit, "/readyz 200", func() bool { code, _ := s.ready(); return code == 200 })
}

// loadKafka is the broker of the heavy tests.
func loadKafka(t testing.TB) []string {
	t.Helper()
	return envtest.NewKafka(t, testenv.KafkaConfig{Load: true, Heap: "512m"}).Addrs()
}
