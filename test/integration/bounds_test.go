package integration

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// boundRSS is the promise on memory whatever happens.
const boundRSS = 150 << 20

// BoundsVariable asks for the full sizes of the tests of bounds: make bounds. Else
// they are small.
const boundsVariable = "WALPOST_TEST_BOUNDS"

// sized returns how large a test of bounds is to be.
func sized[T any](small, full T) T {
	if os.Getenv(boundsVariable) == "1" {
		return full
	}
	return small
}

// bounded ends a test of bounds: walpost stops cleanly, has stayed within its memory, and
// all that is in the ledger is in the topics, once.
func (s *stage) bounded(p *harness.Process, what string, ledger harness.Ledger, check check, topics ...string) {
	s.t.Helper()
	rss := p.PeakRSS()
	s.stop(p)
	r := s.compareWith(ledger, check, topics...)
	fmt.Printf("FIGURES bounds, %s: peak RSS %.1f MiB, CPU %.1f s; %s\n", what, float64(rss)/(1<<20), p.CPU().Seconds(), r)
	if rss > boundRSS {
		s.t.Errorf("peak RSS %d bytes, want at most %d", rss, boundRSS)
	}
	if r.Duplicated > 0 {
		s.t.Errorf("%d duplicates without a crash", r.Duplicated)
	}
}

// guarantees are the two, with the check that goes with each.
var guarantees = []struct {
	name     string
	newStage func(testing.TB, envtest.Database, []string) *stage
	check    check
}{
	{"AtLeastOnce", newStage, harness.Check},
	{"ExactlyOnce", newExactStage, harness.CheckCommitted},
}

// Rows of 1 MB, one a transaction and many in one, that cannot be compressed.
func TestBoundsLargeRows(t *testing.T) {
	brokers := loadKafka(t)
	n := sized[int64](60, 1000)
	for _, g := range guarantees {
		t.Run(g.name, func(t *testing.T) {
			s := g.newStage(t, envtest.NewDatabase(t), brokers)
			s.db.Exec(t, "ALTER TABLE outbox ALTER payload SET STORAGE EXTERNAL; CREATE TABLE megabyte (text text)")
			if _, err := s.conn.Exec(t.Context(), "INSERT INTO megabyte VALUES ($1)", incompressible(1_000_000)); err != nil {
				t.Fatal(err)
			}
			const insert = `INSERT INTO outbox SELECT gen_random_uuid(), 'order', 'order-' || n % 100, 'created', to_jsonb(n || text), n
				FROM megabyte, generate_series($1::bigint, $2::bigint) n`
			p := s.start("run")
			s.isReady(30 * time.Second)
			for i := int64(1); i <= n; i++ {
				s.exec(insert, i, i)
			}
			s.exec(insert, n+1, 2*n)
			s.caughtUp(5 * time.Minute)
			s.bounded(p, fmt.Sprintf("%s, %d rows of 1 MB in transactions of their own and %d in one", g.name, n, n), s.ledger(), g.check, s.topic)
		})
	}
}

// A purge with an archive of rows of 1 MB, all in a few blocks of the table, which are one batch.
func TestBoundsPurge(t *testing.T) {
	n := sized[int64](200, 2000)
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.exec("GRANT SELECT, DELETE ON outbox TO " + s.slot)
	s.exec(`INSERT INTO outbox SELECT gen_random_uuid(), 'order', 'order-' || n, 'created', to_jsonb(repeat('x', 1000000)), n FROM generate_series(1, $1::bigint) n`, n)
	s.publish()
	dir := t.TempDir()
	p := s.start("purge", "--older-than", "0", "--purge.archive", "ndjson", "--purge.archive_dir", dir)
	if code := s.wait(p, 5*time.Minute); code != 0 {
		t.Fatalf("exit %d\n%s", code, p.Log())
	}
	rss := p.PeakRSS()
	fmt.Printf("FIGURES bounds, purge of %d rows of 1 MB with an archive: peak RSS %.1f MiB\n", n, float64(rss)/(1<<20))
	if rss == 0 || rss > boundRSS {
		t.Errorf("peak RSS %d bytes, want at most %d", rss, boundRSS)
	}
	if got, left := archived(t, dir), s.number("SELECT count(*) FROM outbox"); int64(got) != n || left != 0 {
		t.Errorf("%d rows are archived and %d left, want %d and none", got, left, n)
	}
}

// incompressible returns n letters that cannot be compressed much.
func incompressible(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return base64.StdEncoding.EncodeToString(b)[:n]
}

func (s *stage) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.conn.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatal(err)
	}
}

// One transaction of ten million rows: streamed while it is written, pulled when it is
// there already, and exactly once, over many Kafka transactions.
func TestBoundsTransaction(t *testing.T) {
	brokers := loadKafka(t)
	n := sized[int64](200_000, 10_000_000)
	streamed := newStage(t, envtest.NewDatabase(t), brokers)
	pulled, exact := streamed.reader("pulled"), streamed.reader("exact")
	exact.set("DELIVERY_GUARANTEE=exactly-once", "CHECKPOINT_TOPIC="+exact.topic+".progress")
	s := streamed
	s.exec("ALTER TABLE outbox DROP CONSTRAINT outbox_pkey") // costs most of the time
	s.set("POSTGRES_PULL_ABOVE=0")
	p := s.start("run")
	s.isReady(30 * time.Second)
	s.exec(`INSERT INTO outbox SELECT gen_random_uuid(), 'order', 'order-' || n % 1000, 'created', to_jsonb(n), n FROM generate_series(1, $1::bigint) n`, n)
	s.caughtUp(20 * time.Minute)
	spilled, _ := harness.Metric(t.Context(), s.admin, "walpost_spilled_bytes")
	if n >= 10_000_000 && spilled < 100<<20 {
		t.Errorf("spilled %.0f bytes: the test has shown nothing about it", spilled)
	}
	ledger := s.ledger()
	s.bounded(p, fmt.Sprintf("one transaction of %d rows, streamed, %.0f MiB of it spilled", n, spilled/(1<<20)), ledger, harness.Check, s.topic)

	p = pulled.start("run")
	pulled.caughtUp(20 * time.Minute)
	pulled.bounded(p, "the same, pulled", ledger, harness.Check, pulled.topic)

	p = exact.start("run")
	exact.caughtUp(20 * time.Minute)
	exact.bounded(p, "the same, exactly once", ledger, harness.CheckCommitted, exact.topic)
}

// reader is a stage for another reader of the same table, with a slot and a topic of its
// own. It runs as the database's owner.
func (s *stage) reader(name string) *stage {
	s.t.Helper()
	other := s.twin()
	other.slot = envtest.Name(s.t)
	other.topic = envtest.CreateTopic(s.t, s.brokers, partitions, nil)
	other.set("POSTGRES_SLOT="+other.slot, "OUTBOX_TOPIC="+other.topic, "POSTGRES_DSN="+s.db.DSN)
	other.walpost("init", "--no-table")
	return other
}

// A hundred transactions that the server streams at the same time, some with savepoints
// rolled back and some rolled back as a whole.
func TestBoundsInterleaved(t *testing.T) {
	const writers = 100
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{
		"logical_decoding_work_mem": "64kB", "max_connections": "150",
	}})
	s := newStage(t, envtest.NewDatabaseOn(t, pg), loadKafka(t))
	s.set("POSTGRES_PULL_ABOVE=0")
	p := s.start("run")
	s.isReady(30 * time.Second)
	rounds, rows := sized(5, 40), sized(100, 500)
	txs := make([]pgx.Tx, writers)
	for w := range txs {
		txs[w] = begin(t, s)
	}
	files := 0
	for round := range rounds {
		each(t, txs, func(ctx context.Context, w int, tx pgx.Tx) error { return writePart(ctx, tx, w, round, rows) })
		files = max(files, p.Resources(t, s.admin).Files)
	}
	each(t, txs, func(ctx context.Context, w int, tx pgx.Tx) error {
		if w%4 == 3 {
			return tx.Rollback(ctx)
		}
		return tx.Commit(ctx)
	})
	s.caughtUp(5 * time.Minute)
	spilled, _ := harness.Metric(t.Context(), s.admin, "walpost_spilled_bytes")
	if spilled == 0 {
		t.Error("nothing was spilled: the test has shown nothing about it")
	}
	after := p.Resources(t, s.admin)
	if after.Files > 30 {
		t.Errorf("%d files are open after the last transaction: of the spill?", after.Files)
	}
	what := fmt.Sprintf("%d transactions interleaved, %d rows each, %.0f MiB spilled, at most %d files open, at the end %s",
		writers, rounds*rows, spilled/(1<<20), files, after)
	s.bounded(p, what, s.ledger(), harness.Check, s.topic)
}

// each calls fn for all transactions at the same time.
func each(t *testing.T, txs []pgx.Tx, fn func(ctx context.Context, w int, tx pgx.Tx) error) {
	t.Helper()
	g, ctx := errgroup.WithContext(t.Context())
	for w, tx := range txs {
		g.Go(func() error { return fn(ctx, w, tx) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// writePart writes rows of one writer's transaction. Every third part has others
// before it that are rolled back to a savepoint.
func writePart(ctx context.Context, tx pgx.Tx, writer, round, rows int) error {
	const insert = `INSERT INTO outbox SELECT gen_random_uuid(), 'order', 'writer-' || $1::int, 'created',
		to_jsonb(repeat('x', 300)), n FROM generate_series($2::bigint, $3::bigint) n`
	first := round*rows + 1
	if round%3 == 2 {
		sub, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := sub.Exec(ctx, insert, writer, -rows, -1); err != nil {
			return err
		}
		if err := sub.Rollback(ctx); err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, insert, writer, first, first+rows-1)
	return err
}

// steady fails the test if what a process holds has grown, and stays so: a moment after a
// burst may hold more.
func steady(t testing.TB, what string, from harness.Resources, now func() harness.Resources) {
	t.Helper()
	const memory, others = 16 << 20, 5 // what a moment may differ by
	var to harness.Resources
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(time.Second) {
		to = now()
		if to.RSS <= from.RSS+memory && to.Files <= from.Files+others && to.Goroutines <= from.Goroutines+others {
			return
		}
	}
	t.Errorf("%s: grew from %s to %s", what, from, to)
}

// resources asks for what p holds.
func (s *stage) resources(p *harness.Process) func() harness.Resources {
	return func() harness.Resources {
		s.t.Helper()
		return p.Resources(s.t, s.admin)
	}
}

// logged reports whether the process has logged a line with all words.
func logged(p *harness.Process, words ...string) bool {
	for line := range strings.Lines(p.Log()) {
		found := true
		for _, w := range words {
			found = found && strings.Contains(line, w)
		}
		if found {
			return true
		}
	}
	return false
}
