package snapshot

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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
	return newFixtureIn(t, envtest.NewDatabase(t))
}

func newFixtureIn(t *testing.T, db envtest.Database) *fixture {
	t.Helper()
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
