package history

import (
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }

const slot = "walpost"

// connect returns a session in a database with walpost's tables.
func connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn := envtest.NewDatabase(t).Connect(t)
	harness.Tables(t, conn)
	return conn
}

// Entries of every ten seconds over two days, and of every hour over two months.
func TestThin(t *testing.T) {
	conn := connect(t)
	const fill = `INSERT INTO walpost.checkpoint_log (slot, at, lsn, end_lsn, oldest_xid)
		SELECT s, at, '0/1', '0/1', '3' FROM unnest('{walpost,other}'::text[]) s,
			(SELECT generate_series(now() - interval '2 days', now(), '10 seconds') at UNION SELECT generate_series(now() - interval '60 days', now(), '1 hour')) e
		ON CONFLICT DO NOTHING`
	if _, err := conn.Exec(t.Context(), fill); err != nil {
		t.Fatal(err)
	}
	const others = `SELECT count(*) FROM walpost.checkpoint_log WHERE slot = 'other'`
	before := number(t, conn, others)
	for range 2 { // what is thinned already stays
		if err := Thin(t.Context(), conn, slot); err != nil {
			t.Fatal(err)
		}
	}
	if after := number(t, conn, others); after != before {
		t.Errorf("another slot has %d of %d entries left, want all", after, before)
	}
	for _, age := range []struct {
		from, to string
		min, max int64 // a slice of time at each end may be cut
	}{
		{"1 hour", "0", 359, 362},
		{"1 day", "1 hour", 23*60 - 1, 23*60 + 2},
		{"2 days", "1 day", 24*6 - 1, 24*6 + 2},
		{"30 days", "2 days", 28*24 - 1, 28*24 + 2}, // there is one for each hour
		{"60 days", "30 days", 29, 32},
	} {
		n := number(t, conn, `SELECT count(*) FROM walpost.checkpoint_log WHERE slot = $1 AND at > now() - $2::interval AND at <= now() - $3::interval`, slot, age.from, age.to)
		if n < age.min || n > age.max {
			t.Errorf("from %s to %s ago %d entries are left, want %d to %d", age.from, age.to, n, age.min, age.max)
		}
	}
}

func number(t *testing.T, conn *pgx.Conn, query string, args ...any) (n int64) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A moment becomes the position that held then, and a position the last moment before it.
func TestFind(t *testing.T) {
	conn := connect(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	for hours, lsn := range map[int]string{3: "0/30", 2: "0/40", 1: "0/50"} {
		if _, err := conn.Exec(t.Context(), `INSERT INTO walpost.checkpoint_log (slot, at, lsn, end_lsn, oldest_xid) VALUES ($1, $2, $3::text::pg_lsn, $3::text::pg_lsn, '3')`,
			slot, now.Add(-time.Duration(hours)*time.Hour), lsn); err != nil {
			t.Fatal(err)
		}
	}
	at := func(e *Entry, err error) string {
		t.Helper()
		switch {
		case err != nil:
			t.Fatal(err)
		case e == nil:
			return ""
		}
		return e.LSN.String()
	}
	for name, got := range map[string][2]string{
		"at an entry":              {at(At(t.Context(), conn, slot, now.Add(-2*time.Hour))), "0/40"},
		"between two":              {at(At(t.Context(), conn, slot, now.Add(-90*time.Minute))), "0/40"},
		"older than all":           {at(At(t.Context(), conn, slot, now.Add(-4*time.Hour))), ""},
		"the next":                 {at(After(t.Context(), conn, slot, now.Add(-90*time.Minute))), "0/50"},
		"none after":               {at(After(t.Context(), conn, slot, now)), ""},
		"what ends before":         {at(Before(t.Context(), conn, slot, 0x45, now)), "0/40"},
		"what ends before, by age": {at(Before(t.Context(), conn, slot, 0x45, now.Add(-150*time.Minute))), "0/30"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %q, want %q", name, got[0], got[1])
		}
	}
}
