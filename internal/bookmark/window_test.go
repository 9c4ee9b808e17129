package bookmark

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/test/harness"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }

// server is a database with walpost's tables and a slot that nobody reads.
type server struct {
	*pgx.Conn
	t      *testing.T
	live   string
	window *Window
}

func newServer(t *testing.T) server {
	t.Helper()
	return newServerIn(t, envtest.NewDatabase(t))
}

func newServerIn(t *testing.T, db envtest.Database) server {
	t.Helper()
	s := server{db.Connect(t), t, envtest.Name(t), new(Window)}
	harness.Tables(t, s.Conn)
	s.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", s.live)
	t.Cleanup(func() {
		const drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE starts_with(slot_name, $1)"
		if _, err := s.Exec(context.WithoutCancel(t.Context()), drop, s.live); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s server) exec(query string, args ...any) {
	s.t.Helper()
	if _, err := s.Exec(s.t.Context(), query, args...); err != nil {
		s.t.Fatal(err)
	}
}

// write makes WAL, and returns where it ends.
func (s server) write(mib int) (end cdc.LSN) {
	s.t.Helper()
	for range mib {
		s.exec("SELECT pg_logical_emit_message(true, 'other', repeat('x', 1 << 20))")
	}
	var text string
	if err := s.QueryRow(s.t.Context(), "SELECT pg_current_wal_insert_lsn()::text").Scan(&text); err != nil {
		s.t.Fatal(err)
	}
	end, err := cdc.ParseLSN(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return end
}

// confirm moves the live slot, as a stream would.
func (s server) confirm(lsn cdc.LSN) {
	s.t.Helper()
	s.exec("SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)", s.live, lsn.String())
}

// keep wants Keep to change something or nothing, and returns where the bookmark is.
func (s server) keep(length time.Duration, maxBytes int64, want bool) cdc.LSN {
	s.t.Helper()
	change, err := s.window.Keep(s.t.Context(), s.Conn, s.live, length, maxBytes)
	if err != nil {
		s.t.Fatal(err)
	}
	if change.Done != want || change.Lost != "" {
		s.t.Errorf("Keep() = %+v, want %t", change, want)
	}
	b, err := get(s.t.Context(), s.Conn, s.live, WindowName)
	if err != nil {
		s.t.Fatal(err)
	}
	return b.LSN
}

// was says that all up to a position was published so long ago.
func (s server) was(lsn cdc.LSN, ago time.Duration) {
	s.t.Helper()
	s.exec(`INSERT INTO walpost.checkpoint_log (slot, at, lsn, end_lsn, oldest_xid) VALUES ($1, $2, $3::text::pg_lsn, $3::text::pg_lsn, '3')`,
		s.live, time.Now().Add(-ago), lsn.String())
}

const unlimited = 1 << 40

// The window begins a time ago.
func TestWindowMovesByTime(t *testing.T) {
	s := newServer(t)
	begin := s.keep(time.Hour, unlimited, true)
	old := s.write(20)
	s.was(old, 2*time.Hour)
	recent := s.write(20)
	s.was(recent, 30*time.Minute)
	if got := s.keep(time.Hour, unlimited, false); got != begin {
		t.Errorf("the window moved to %s beyond what is confirmed, want %s", got, begin)
	}
	s.confirm(recent)
	if got := s.keep(time.Hour, unlimited, true); got != old {
		t.Errorf("the window begins at %s, want %s, which was published before it", got, old)
	}
	if got := s.keep(time.Hour, unlimited, false); got != old {
		t.Errorf("the window moved to %s, want %s", got, old)
	}
}

// It begins a number of bytes ago if that is nearer.
func TestWindowMovesByBytes(t *testing.T) {
	s := newServer(t)
	s.keep(time.Hour, unlimited, true)
	s.was(s.write(1), 2*time.Hour)
	end := s.write(64)
	s.confirm(end)
	const most = 20 << 20
	got := s.keep(time.Hour, most, true)
	if left := end - got; left > most || left < most-4<<20 {
		t.Errorf("the window keeps %d bytes, want %d", left, most)
	}
	if _, err := s.window.Keep(t.Context(), s.Conn, s.live, 0, most); err != nil {
		t.Fatal(err)
	}
	if all, err := List(t.Context(), s.Conn, s.live); err != nil || len(all) > 0 {
		t.Errorf("a window of no length left %v, %v", all, err)
	}
}

// A move that fails, as one that is cut off, is followed by one half as far, and that by longer ones again.
func TestWindowMovesLessAfterAFailure(t *testing.T) {
	s := newServer(t)
	begin := s.keep(time.Hour, unlimited, true)
	end := s.write(160)
	s.was(end, 2*time.Hour)
	s.confirm(end)
	s.window.step = 64 << 20
	s.exec("SET ROLE pg_read_all_data") // which may look, and move no slot
	if _, err := s.window.Keep(t.Context(), s.Conn, s.live, time.Hour, unlimited); err == nil {
		t.Fatal("the window was moved without the right to")
	}
	s.exec("RESET ROLE")
	for _, want := range []cdc.LSN{begin + 32<<20, begin + 96<<20, end} {
		if got := s.keep(time.Hour, unlimited, true); got != want {
			t.Errorf("the window moved to %s, want %s", got, want)
		}
	}
}

// A window that the server has given up is dropped, which is told, and then made anew.
func TestWindowIsLost(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"max_slot_wal_keep_size": "32MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}})
	s := newServerIn(t, envtest.NewDatabaseOn(t, pg))
	s.keep(time.Hour, unlimited, true)
	s.exec("SELECT pg_drop_replication_slot($1)", s.live) // or it would be lost too
	for lost := false; !lost; {
		s.write(20)
		s.exec("CHECKPOINT")
		b, err := get(t.Context(), s.Conn, s.live, WindowName)
		if err != nil {
			t.Fatal(err)
		}
		lost = !b.Usable
	}
	s.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", s.live)
	change, err := s.window.Keep(t.Context(), s.Conn, s.live, time.Hour, unlimited)
	if err != nil || change.Lost == "" {
		t.Errorf("Keep() = %+v, %v, want to be told that it is lost", change, err)
	}
	s.keep(time.Hour, unlimited, true)
}
