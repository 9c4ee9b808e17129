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

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
	"github.com/walpost/walpost/test/harness"
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
	return newFixtureIn(t, envtest.NewDatabase(t))
}

func newFixtureIn(t *testing.T, db envtest.Database) *fixture {
	t.Helper()
	f := &fixture{t: t, db: db, conn: db.Connect(t), slot: envtest.Name(t)}
	harness.Tables(t, f.conn)
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

// write begins a transaction that writes rows in subtransactions, one of them rolled back, and
// returns its number.
func (f *fixture) write(conn *pgx.Conn, name string) (xid string) {
	f.t.Helper()
	sql := fmt.Sprintf(`BEGIN; INSERT INTO outbox VALUES ('%[1]s'); SAVEPOINT one; INSERT INTO outbox VALUES ('%[1]s sub');
		SAVEPOINT two; INSERT INTO outbox VALUES ('%[1]s sub sub'); SAVEPOINT three; INSERT INTO outbox VALUES ('%[1]s rolled back'); ROLLBACK TO three`, name)
	if _, err := conn.PgConn().Exec(f.t.Context(), sql).ReadAll(); err != nil {
		f.t.Fatal(err)
	}
	if err := conn.QueryRow(f.t.Context(), "SELECT pg_current_xact_id()::text").Scan(&xid); err != nil {
		f.t.Fatal(err)
	}
	return xid
}

func (f *fixture) commit(conn *pgx.Conn) {
	f.t.Helper()
	if _, err := conn.Exec(f.t.Context(), "COMMIT"); err != nil {
		f.t.Fatal(err)
	}
}

// awaited waits until another session, which makes the slot, waits for the transaction's end.
func (f *fixture) awaited(xid string) {
	f.t.Helper()
	const query = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted AND transactionid = $1::text::xid)"
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		var waits bool
		if err := f.conn.QueryRow(f.t.Context(), query, xid).Scan(&waits); err != nil {
			f.t.Fatal(err)
		}
		if waits {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.t.Fatalf("nobody waits for transaction %s", xid)
}

// begun is a fixture with a snapshot of a row, of which nothing is published.
func begun(t *testing.T) (*fixture, cdc.Position) {
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

func wantRefusal(t *testing.T, err error) {
	t.Helper()
	var r *cdc.RefusedError
	if !errors.As(err, &r) || r.Hint == "" {
		t.Errorf("error %v, want a refusal with a hint", err)
	}
}
