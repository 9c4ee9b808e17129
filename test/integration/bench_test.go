package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/bench"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// benchStage is a database and brokers to bench, with an environment that means
// everything a user could have set.
type benchStage struct {
	t       *testing.T
	db      envtest.Database
	brokers []string
	env     []string
}

func newBenchStage(t *testing.T, guarantee string) *benchStage {
	t.Helper()
	s := &benchStage{t: t, db: envtest.NewDatabase(t), brokers: envtest.Kafka(t).Addrs()}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = []string{
		"WALPOST_POSTGRES_DSN=" + s.db.DSN, "WALPOST_KAFKA_BROKERS=" + strings.Join(s.brokers, ","), "WALPOST_KAFKA_PARTITIONS=3",
		"WALPOST_DELIVERY_GUARANTEE=" + guarantee, "WALPOST_DELIVERY_POISON=dead-letter", "WALPOST_POSTGRES_SHARD=0/2",
		"WALPOST_OUTBOX_TABLE=app.events", "WALPOST_OUTBOX_KEY=customer", "WALPOST_OUTBOX_PLACE=type:header,tenant:header", "WALPOST_OUTBOX_TOPIC=theirs",
		"WALPOST_OUTBOX_ROUTE_REGEX=(?<name>.+)", "WALPOST_OUTBOX_TIMESTAMP=happened", "WALPOST_OUTBOX_ID=uid", "WALPOST_OUTBOX_ROUTE=kind", "WALPOST_OUTBOX_PAYLOAD=body",
		"WALPOST_OUTBOX_VALUE_FORMAT=json", "WALPOST_OUTBOX_KEY_FORMAT=json-schema", "WALPOST_OUTBOX_EXPAND_JSON=true", "WALPOST_OUTBOX_TOMBSTONE_ON_EMPTY=true",
		"WALPOST_OUTBOX_SCHEMA_NAME=theirs", "WALPOST_OUTBOX_POSITION_HEADERS=true", "WALPOST_OUTBOX_UPDATE=stop",
		"WALPOST_OUTBOX_HEADERS=cloudevents", "WALPOST_OUTBOX_CLOUDEVENTS_SOURCE=/theirs", "WALPOST_MESSAGES_PREFIX=theirs",
		"WALPOST_SNAPSHOT=initial", "WALPOST_OUTBOX_ORDER_BY=happened", "WALPOST_REPLAY_WINDOW=1h", "WALPOST_REPLAY_MAX_BYTES=1GiB",
		"WALPOST_PURGE_OLDER_THAN=1m", "WALPOST_PURGE_ARCHIVE=parquet", "WALPOST_PURGE_ARCHIVE_DIR=" + t.TempDir(), "WALPOST_PURGE_ARCHIVE_BUCKET=s3://theirs/archive",
		"WALPOST_KAFKA_SCHEMA_REGISTRY_URL=http://127.0.0.1:1", "WALPOST_KAFKA_SCHEMA_REGISTRY_USERNAME=them", "WALPOST_KAFKA_SCHEMA_REGISTRY_PASSWORD_FILE=" + secret,
		"WALPOST_ADMIN_TOKEN_FILE=" + secret, "WALPOST_CHECKPOINT_TOPIC=theirs.progress",
	}
	return s
}

// bench runs it to its end.
func (s *benchStage) bench(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	path, err := harness.Binary(binDir)
	if err != nil {
		s.t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := osexec.CommandContext(s.t.Context(), path, append([]string{"bench"}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.env, &out, &errs
	_ = cmd.Run() // the state tells
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// left returns what a bench has made in the database and the topics.
func (s *benchStage) left() []string {
	s.t.Helper()
	const query = `
		SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
		UNION SELECT 'publication ' || pubname FROM pg_publication
		UNION SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('public', 'information_schema')
		UNION SELECT 'table ' || relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
		UNION SELECT 'session ' || application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type LIKE 'wal%'`
	rows, err := s.db.Connect(s.t).Query(s.t.Context(), query)
	if err != nil {
		s.t.Fatal(err)
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.t.Fatal(err)
	}
	topics, err := envtest.Admin(s.t, s.brokers).ListTopics(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range topics.Names() {
		if strings.HasPrefix(name, bench.Prefix) {
			left = append(left, "topic "+name)
		}
	}
	slices.Sort(left)
	return left
}

func (s *benchStage) nothingLeft() {
	s.t.Helper()
	if left := s.left(); len(left) > 0 {
		s.t.Errorf("left: %q", left)
	}
}

// A bench measures both phases with either guarantee, finds every event once, and leaves
// nothing.
func TestBench(t *testing.T) {
	for _, guarantee := range []string{"at-least-once", "exactly-once"} {
		t.Run(guarantee, func(t *testing.T) {
			s := newBenchStage(t, guarantee)
			stdout, stderr, code := s.bench("--events", "2000", "--rate", "200", "--duration", "2s", "--output", "json")
			if code != 0 {
				t.Fatalf("exit %d\n%s%s", code, stdout, stderr)
			}
			var sum bench.Summary
			if err := json.Unmarshal([]byte(stdout), &sum); err != nil {
				t.Fatalf("%v\n%s", err, stdout)
			}
			if sum.Written != 2400 || sum.Received != 2400 || !sum.OK() {
				t.Errorf("written %d, received %d, lost %d, duplicated %d, changed %d, want 2400 and 2400", sum.Written, sum.Received, sum.Lost, sum.Duplicated, sum.Changed)
			}
			if b := sum.Backlog; b.Events != 2000 || b.First <= 0 || b.First > b.Took || b.CPU <= 0 || b.PeakRSS < 1<<20 || b.EventsRate <= 0 || b.CPUPerEvent <= 0 {
				t.Errorf("backlog: %+v", b)
			}
			if p := sum.Steady; p == nil || p.Events != 400 || p.Latency.P50 <= 0 || p.Latency.P50 > p.Latency.P99 || p.Latency.P99 > p.Latency.Max || p.Commit.P50 <= 0 {
				t.Errorf("steady: %+v", p)
			}
			if sum.Guarantee != guarantee || sum.Partitions != 3 || sum.Replicas != 1 || sum.Compression != "lz4" || sum.Postgres == "" || sum.Kafka == "unknown" {
				t.Errorf("settings: %+v", sum)
			}
			s.nothingLeft()
		})
	}
}

// Transactions of several events, larger than what is sent at a time, and no steady phase.
func TestBenchBatches(t *testing.T) {
	s := newBenchStage(t, "at-least-once")
	for _, batch := range []string{"7", "2500"} {
		stdout, stderr, code := s.bench("--events", "6000", "--rate", "0", "--batch", batch, "--bytes", "1000")
		if code != 0 || !strings.Contains(stdout, "received    6,000\n") || !strings.HasSuffix(stdout, "everything adds up\n") {
			t.Fatalf("exit %d\n%s%s", code, stdout, stderr)
		}
	}
	s.nothingLeft()
}

// Ctrl-C ends each phase, and removes what there is.
func TestBenchInterrupted(t *testing.T) {
	for _, phase := range []struct{ said, args string }{
		{"writing 3,000,000 events", "--events 3000000"},
		{"starting walpost", "--events 200000"},
		{"writing 100 events a second", "--events 100 --rate 100 --duration 1m"},
	} {
		t.Run(strings.ReplaceAll(phase.said, " ", "-"), func(t *testing.T) {
			s := newBenchStage(t, "exactly-once")
			path, err := harness.Binary(binDir)
			if err != nil {
				t.Fatal(err)
			}
			p := harness.Start(t, path, s.env, append([]string{"bench"}, strings.Fields(phase.args)...)...)
			harness.Eventually(t, time.Minute, phase.said, func() bool { return strings.Contains(p.Log(), phase.said) })
			if left := s.left(); len(left) < 4 {
				t.Errorf("during the phase there are only %q", left)
			}
			p.Signal(syscall.SIGINT)
			asked := time.Now()
			st := &stage{t: t}
			if code := st.wait(p, time.Minute); code != 1 || !strings.Contains(p.Log(), "removed topic "+bench.Prefix) || !strings.HasSuffix(p.Log(), "walpost: bench: interrupted\n") {
				t.Errorf("exit %d, want 1, what was removed, and that it was interrupted\n%s", code, p.Log())
			}
			fmt.Printf("FIGURES bench interrupted after %q: removed in %.1f s\n", phase.said, time.Since(asked).Seconds())
			s.nothingLeft()
		})
	}
}

// A bench that is killed leaves what the next one names, and --clean removes; one that
// runs is left alone.
func TestBenchKilled(t *testing.T) {
	s := newBenchStage(t, "exactly-once")
	path, err := harness.Binary(binDir)
	if err != nil {
		t.Fatal(err)
	}
	p := harness.Start(t, path, s.env, "bench", "--events", "100", "--rate", "100", "--duration", "1m")
	harness.Eventually(t, time.Minute, "the steady phase", func() bool { return strings.Contains(p.Log(), "writing 100 events a second") })
	if stdout, stderr, code := s.bench("--clean"); code != 0 || stdout != "nothing was left\n" {
		t.Errorf("--clean beside a bench that runs: exit %d\n%s%s", code, stdout, stderr)
	}
	p.Signal(syscall.SIGKILL)
	<-p.Exited()
	_, stderr, code := s.bench("--events", "100", "--rate", "0")
	if code != 0 || !strings.Contains(stderr, "hint: an earlier bench was killed and has left "+bench.Prefix) {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	stdout, stderr, code := s.bench("--clean")
	if code != 0 || !strings.HasPrefix(stdout, "removed  "+bench.Prefix) {
		t.Errorf("--clean: exit %d\n%s%s", code, stdout, stderr)
	}
	if left := s.left(); !slices.Equal(left, []string{"schema walpost"}) { // nobody knows whose it was
		t.Errorf("left: %q", left)
	}
}

// What is missing is named with the way out, and nothing is left.
func TestBenchRefused(t *testing.T) {
	s := newBenchStage(t, "exactly-once")
	role := envtest.Name(t)
	s.db.Exec(t, "CREATE ROLE "+role+" LOGIN PASSWORD 'x'")
	defer s.db.Exec(t, "DROP OWNED BY "+role+"; DROP ROLE "+role)
	s.env = append(s.env, "WALPOST_POSTGRES_DSN="+(&stage{db: s.db}).dsnWith(t, role, "x"))
	refused := func(hint string, args ...string) {
		t.Helper()
		_, stderr, code := s.bench(append([]string{"--events", "10"}, args...)...)
		if code != 1 || !strings.Contains(stderr, "hint: "+hint) {
			t.Errorf("exit %d, want 1 and hint %q\n%s", code, hint, stderr)
		}
		t.Log(stderr)
		s.nothingLeft()
	}
	refused("check kafka.brokers", "--brokers", "127.0.0.1:1")
	refused("GRANT CREATE ON DATABASE")
	s.db.Exec(t, "GRANT CREATE ON DATABASE "+pgx.Identifier{s.db.Name}.Sanitize()+" TO "+role)
	refused("ALTER ROLE of postgres.dsn REPLICATION")
	s.db.Exec(t, "ALTER ROLE "+role+" REPLICATION")
	if stdout, stderr, code := s.bench("--events", "10", "--rate", "0"); code != 0 {
		t.Errorf("with all rights: exit %d\n%s%s", code, stdout, stderr)
	}
	s.nothingLeft()
	s.db.Exec(t, "CREATE PUBLICATION everything FOR ALL TABLES")
	defer s.db.Exec(t, "DROP PUBLICATION everything")
	_, stderr, code := s.bench("--events", "10")
	if code != 1 || !strings.Contains(stderr, "hint: name another database") {
		t.Errorf("exit %d\n%s", code, stderr)
	}
	if left := s.left(); !slices.Equal(left, []string{"publication everything"}) {
		t.Errorf("left: %q", left)
	}
}
