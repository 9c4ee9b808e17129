package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
	sqlfiles "github.com/walpost/walpost/sql"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }

// fixture is a database with an outbox, and a source for it.
type fixture struct {
	t    *testing.T
	db   envtest.Database
	conn *pgx.Conn
	slot string
	role string // that connects; empty: the owner
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	db := envtest.NewDatabase(t)
	f := &fixture{t: t, db: db, conn: db.Connect(t), slot: envtest.Name(t)}
	steps, err := sqlfiles.Render(sqlfiles.Names{}, sqlfiles.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if _, err := f.conn.PgConn().Exec(t.Context(), s.SQL).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	f.exec("CREATE TABLE outbox (id text, n serial); CREATE PUBLICATION walpost FOR TABLE outbox WITH (publish = 'insert')")
	return f
}

func (f *fixture) exec(sql string) {
	f.t.Helper()
	if _, err := f.conn.PgConn().Exec(f.t.Context(), sql).ReadAll(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) source() *Source {
	f.t.Helper()
	log := slog.New(slog.DiscardHandler)
	s := New(Config{
		Slot: f.slot, Publication: "walpost", Tables: []pgx.Identifier{{"public", "outbox"}}, Initial: true, Logger: log,
		Connect: func(ctx context.Context) (*pgx.Conn, error) {
			cfg, err := pgx.ParseConfig(f.db.DSN)
			if err != nil {
				return nil, err
			}
			cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
			if f.role != "" {
				cfg.User, cfg.Password = f.role, "x"
			}
			return pgx.ConnectConfig(ctx, cfg)
		},
	})
	inner, err := pgsource.New(pgsource.Config{
		DSN: f.db.DSN, Slot: f.slot, Publication: "walpost", Tables: []pgsource.Table{{Schema: "public", Name: "outbox"}},
		CreateSlot: true, Exported: s.Exported, Logger: log,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	s.Before(inner)
	return s
}

// open opens a stream from a position.
func (f *fixture) open(s *Source, at cdc.Position) (cdc.Stream, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	st, err := s.Open(ctx, func(context.Context, cdc.Position) (cdc.Position, error) { return at, nil })
	if err == nil {
		f.t.Cleanup(func() { _ = st.Close() })
	}
	return st, err
}

// collector is a handler that keeps the first column of each row.
type collector struct {
	ids  []string
	ends []cdc.LSN
	idle cdc.LSN
	want int // rows after which it is done
	done func()
}

func (c *collector) Begin(cdc.Transaction) error { return nil }

func (c *collector) Insert(_ context.Context, ev *cdc.Event) error {
	c.ids = append(c.ids, string(ev.Values[0].Data))
	if len(c.ids) == c.want {
		c.done()
	}
	return nil
}

func (c *collector) Commit(end cdc.LSN) error {
	c.ends = append(c.ends, end)
	return nil
}

func (c *collector) Idle(lsn cdc.LSN) { c.idle = max(c.idle, lsn) }

// collect runs the stream until n rows have come.
func (f *fixture) collect(st cdc.Stream, n int) *collector {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	c := &collector{want: n, done: cancel}
	if n == 0 {
		time.AfterFunc(time.Second, cancel)
	}
	if err := st.Run(ctx, c); err != nil {
		f.t.Fatal(err)
	}
	slices.Sort(c.ids)
	return c
}

// What had not committed when the slot began is the stream's, and what had is the snapshot's,
// subtransactions included: also for a later process, which has the saved plan alone. The last
// transaction that has ended may have committed, or rolled back: the snapshot's xmin is beyond its
// xmax then.
func TestVisibleRowsOfSubtransactions(t *testing.T) {
	t.Run("last committed", func(t *testing.T) { testSubtransactions(t, true) })
	t.Run("last rolled back", func(t *testing.T) { testSubtransactions(t, false) })
}

func testSubtransactions(t *testing.T, committed bool) {
	f := newFixture(t)
	f.exec("INSERT INTO outbox VALUES ('before')")
	a, b, c := f.db.Connect(t), f.db.Connect(t), f.db.Connect(t)
	write := func(conn *pgx.Conn, name string) {
		t.Helper()
		if _, err := conn.PgConn().Exec(t.Context(), fmt.Sprintf(`BEGIN; INSERT INTO outbox VALUES ('%[1]s'); SAVEPOINT one; INSERT INTO outbox VALUES ('%[1]s sub');
			SAVEPOINT two; INSERT INTO outbox VALUES ('%[1]s sub sub'); SAVEPOINT three; INSERT INTO outbox VALUES ('%[1]s rolled back'); ROLLBACK TO three`, name)).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	end := func(conn *pgx.Conn) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
	}
	// The slot waits for a, and then for b, which began meanwhile; not for c.
	waits := func() {
		t.Helper()
		for range 1000 {
			var n int
			if err := f.conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND wait_event_type = 'Lock' AND datname = current_database()").Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal("the slot does not wait")
	}
	write(a, "a")
	s := f.source()
	var st cdc.Stream
	var g errgroup.Group
	g.Go(func() (err error) {
		st, err = f.open(s, cdc.Position{})
		return err
	})
	waits()
	write(b, "b")
	end(a)
	time.Sleep(200 * time.Millisecond)
	waits()
	write(c, "c")
	var last []string
	if committed {
		f.exec("INSERT INTO outbox VALUES ('last')")
		last = []string{"last"}
	}
	end(b)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	end(c)
	f.exec("INSERT INTO outbox VALUES ('after')")
	of := func(name string) []string { return []string{name, name + " sub", name + " sub sub"} }
	want := slices.Concat(of("a"), []string{"after"}, of("b"), []string{"before"}, of("c"), last)
	start := st.Start()
	if start.LSN != base {
		t.Errorf("Start() = %s, want %d", start.LSN, base)
	}
	if err := st.Close(); err != nil { // with it ends the exported snapshot
		t.Fatal(err)
	}
	if visible := s.plan.Visible; committed && len(visible.missing) < 3 {
		t.Errorf("snapshot %s lists %d transactions, want those of c", visible, len(visible.missing))
	}
	st, err := f.open(f.source(), start)
	if err != nil {
		t.Fatal(err)
	}
	got := f.collect(st, len(want))
	if !slices.Equal(got.ids, want) {
		t.Errorf("rows %q, want %q", got.ids, want)
	}
	if got.ends[0] != base+1 || got.ends[1] < maxPosition {
		t.Errorf("transactions end at %s, want the first at %d", got.ends, base+1)
	}
}

// A position in a snapshot goes on with the next chunk, and one at its end with the stream.
func TestResume(t *testing.T) {
	f := newFixture(t)
	f.exec("INSERT INTO outbox SELECT i || repeat('x', 1000) FROM generate_series(1, 10000) i")
	s := f.source()
	st, err := f.open(s, cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}
	at, total := st.Start(), s.plan.chunks()
	if total < 5 {
		t.Fatalf("%d chunks, want some", total)
	}
	all := f.collect(st, 10000)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if len(slices.Compact(slices.Clone(all.ids))) != 10000 {
		t.Errorf("%d rows of 10000", len(slices.Compact(all.ids)))
	}
	for _, change := range []string{
		"INSERT INTO outbox VALUES ('after')", "DELETE FROM outbox WHERE n % 2 = 0 AND id <> 'after'", "VACUUM outbox",
		"INSERT INTO outbox SELECT 'new' || i FROM generate_series(1, 100) i",
	} {
		f.exec(change)
	}
	at.LSN = cdc.LSN(base + total - 1)
	if st, err = f.open(f.source(), at); err != nil {
		t.Fatal(err)
	}
	rest := f.collect(st, 1)
	if len(rest.ids) == 0 || len(rest.ids) > 3000 || rest.ids[0] == "after" {
		t.Errorf("%d rows of the last chunk, %.20q first", len(rest.ids), rest.ids)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	at.LSN = cdc.LSN(base + total)
	if st, err = f.open(f.source(), at); err != nil {
		t.Fatal(err)
	}
	if got := f.collect(st, 101); got.ids[0] != "after" || len(got.ids) != 101 {
		t.Errorf("rows after the snapshot %q, want those of the stream", got.ids)
	}
}

// That all is handed over does not mean that it is published: a process that comes after one that
// was killed then goes on from the checkpoint, which is in the snapshot.
func TestHandedOverIsNotPublished(t *testing.T) {
	f := newFixture(t)
	f.exec("INSERT INTO outbox VALUES ('one')")
	s := f.source()
	st, err := f.open(s, cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}
	start, handed := st.Start(), st.Start()
	handed.LSN = s.plan.LSN
	f.collect(st, 1)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err = f.open(s, handed); err != nil { // the same process, on a new connection
		t.Fatal(err)
	}
	if got := f.collect(st, 0); len(got.ids) > 0 {
		t.Errorf("rows %q come again", got.ids)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	var refused *cdc.RefusedError
	if err := CheckFinished(t.Context(), f.conn, f.slot); !errors.As(err, &refused) {
		t.Errorf("CheckFinished() = %v before anything is confirmed, want a refusal", err)
	}
	if st, err = f.open(f.source(), start); err != nil {
		t.Fatal(err)
	}
	if got := f.collect(st, 1); !slices.Equal(got.ids, []string{"one"}) {
		t.Errorf("rows %q, want the snapshot's", got.ids)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err = f.open(s, handed); err != nil {
		t.Fatal(err)
	}
	st.Confirm(handed.LSN) // published and saved
	f.collect(st, 0)
	if err := CheckFinished(t.Context(), f.conn, f.slot); err != nil {
		t.Errorf("CheckFinished() = %v after all is confirmed", err)
	}
}

// Partitions are read through their table, by a role that may read no more, and one that has gone
// is refused.
func TestPartitions(t *testing.T) {
	for _, orderBy := range []string{"", "n"} {
		t.Run("by "+orderBy, func(t *testing.T) {
			f := newFixture(t)
			f.exec("DROP TABLE outbox; CREATE TABLE outbox (id text, n int) PARTITION BY RANGE (n); CREATE INDEX ON outbox (n); ALTER PUBLICATION walpost ADD TABLE outbox")
			for i := range 4 {
				f.exec(fmt.Sprintf("CREATE TABLE part%d PARTITION OF outbox FOR VALUES FROM (%d) TO (%d)", i, i*1000, i*1000+1000))
			}
			f.exec("CREATE TABLE rest PARTITION OF outbox DEFAULT; INSERT INTO outbox SELECT i || repeat('x', 1000), i FROM generate_series(1, 4999) i")
			role := envtest.Name(t)
			f.exec(fmt.Sprintf(`CREATE ROLE %[1]s LOGIN REPLICATION PASSWORD 'x'; GRANT USAGE ON SCHEMA walpost TO %[1]s; GRANT SELECT ON outbox TO %[1]s; GRANT SELECT, INSERT, UPDATE ON walpost.snapshot TO %[1]s`, role))
			t.Cleanup(func() {
				ctx := context.Background()
				conn, err := pgx.Connect(ctx, f.db.DSN)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.PgConn().Exec(ctx, "DROP OWNED BY "+role+"; DROP ROLE "+role).ReadAll(); err != nil {
					t.Error(err)
				}
				_ = conn.Close(ctx)
			})
			f.role = role
			s := f.source()
			s.cfg.OrderBy = orderBy
			st, err := f.open(s, cdc.Position{})
			if err != nil {
				t.Fatal(err)
			}
			start := st.Start()
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			s = f.source()
			s.cfg.OrderBy = orderBy
			if st, err = f.open(s, start); err != nil {
				t.Fatal(err)
			}
			got := f.collect(st, 4999)
			if n := len(slices.Compact(got.ids)); n != 4999 {
				t.Errorf("%d rows, want 4999", n)
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			f.exec("DROP TABLE part3")
			if st, err = f.open(f.source(), start); err == nil {
				err = st.Run(t.Context(), &collector{})
			}
			var refused *cdc.RefusedError
			if !errors.As(err, &refused) {
				t.Errorf("a dropped partition: %v, want a refusal", err)
			}
		})
	}
}

// What cannot go on is refused, with the way out.
func TestRefusals(t *testing.T) {
	begun := func(t *testing.T) (*fixture, cdc.Position) {
		t.Helper()
		f := newFixture(t)
		f.exec("INSERT INTO outbox VALUES ('one')")
		st, err := f.open(f.source(), cdc.Position{})
		if err != nil {
			t.Fatal(err)
		}
		start := st.Start()
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		return f, start
	}
	refused := func(t *testing.T, err error) {
		t.Helper()
		var r *cdc.RefusedError
		if !errors.As(err, &r) || r.Hint == "" {
			t.Errorf("error %v, want a refusal with a hint", err)
		}
	}
	t.Run("slot without a snapshot", func(t *testing.T) {
		f := newFixture(t)
		f.exec("SELECT pg_create_logical_replication_slot('" + f.slot + "', 'pgoutput')")
		_, err := f.open(f.source(), cdc.Position{})
		refused(t, err)
	})
	t.Run("setting taken away", func(t *testing.T) {
		f, at := begun(t)
		s := f.source()
		s.cfg.Initial = false
		_, err := f.open(s, at)
		refused(t, err)
	})
	t.Run("plan lost", func(t *testing.T) {
		f, at := begun(t)
		f.exec("DELETE FROM walpost.snapshot")
		_, err := f.open(f.source(), at)
		refused(t, err)
	})
	for name, change := range map[string]string{"rewritten": "VACUUM FULL outbox", "dropped": "ALTER TABLE outbox RENAME TO other; CREATE TABLE outbox (id text, n int); ALTER PUBLICATION walpost ADD TABLE outbox"} {
		t.Run("table "+name, func(t *testing.T) {
			f, at := begun(t)
			f.exec(change)
			st, err := f.open(f.source(), at)
			if err == nil {
				err = st.Run(t.Context(), &collector{})
			}
			refused(t, err)
		})
	}
	t.Run("order without an index", func(t *testing.T) {
		f := newFixture(t)
		s := f.source()
		s.cfg.OrderBy = "n"
		_, err := f.open(s, cdc.Position{})
		refused(t, err)
		f.exec("CREATE INDEX ON outbox (n)")
		s = f.source()
		s.cfg.OrderBy = "n"
		if _, err = f.open(s, cdc.Position{}); err != nil {
			t.Errorf("with an index: %v", err)
		}
	})
	t.Run("purge", func(t *testing.T) {
		f, _ := begun(t)
		refused(t, CheckFinished(t.Context(), f.conn, f.slot))
		if err := finish(t.Context(), f.conn, f.slot); err != nil {
			t.Fatal(err)
		}
		if err := CheckFinished(t.Context(), f.conn, f.slot); err != nil {
			t.Error(err)
		}
	})
}

// A slot whose plan was not saved is made again.
func TestPlanNotSaved(t *testing.T) {
	f := newFixture(t)
	f.exec("INSERT INTO outbox VALUES ('one')")
	s := f.source()
	if err := begin(t.Context(), f.conn, f.slot); err != nil {
		t.Fatal(err)
	}
	f.exec("SELECT pg_create_logical_replication_slot('" + f.slot + "', 'pgoutput')")
	f.exec("INSERT INTO outbox VALUES ('two')")
	if _, err := f.open(s, cdc.Position{}); err == nil {
		t.Fatal("Open() = nil, want to be asked again")
	}
	st, err := f.open(s, cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.collect(st, 2).ids; !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("rows %q", got)
	}
}
