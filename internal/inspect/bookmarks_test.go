package inspect

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
)

// A bookmark on its way to be lost is told of in time, with what mends it.
func TestBookmarks(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{
		"max_slot_wal_keep_size": "64MB", "max_wal_size": "1GB", "checkpoint_timeout": "1h",
	}})
	conn, err := pgx.Connect(t.Context(), pg.DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	segments := func(n int) { // of 16 MiB
		t.Helper()
		for range n {
			exec("SELECT pg_logical_emit_message(false, 'none', 'x'), pg_switch_wal()")
		}
	}
	p := &Postgres{Conn: conn, Slot: "orders"}
	want := func(verdict Verdict, text, mend string) {
		t.Helper()
		c, err := p.bookmarks(t.Context())
		if err != nil || c == nil || c.Verdict != verdict || !strings.Contains(c.Text, text) || !strings.Contains(c.Mend, mend) {
			t.Errorf("got %+v, %v, want %s with %q and the mend %q", c, err, verdict, text, mend)
		}
	}
	exec("SELECT pg_create_logical_replication_slot('orders', 'pgoutput')")
	if c, err := p.bookmarks(t.Context()); c != nil || err != nil {
		t.Errorf("got %+v, %v without bookmarks", c, err)
	}
	exec("SELECT pg_copy_logical_replication_slot('orders', 'orders_bm_old')")
	want(OK, `1, of which "old" keeps most`, "")
	segments(3)
	want(Warn, `bookmark "old" keeps`, "walpost bookmark advance old, or drop it")
	segments(3)
	want(Fail, "at the next checkpoint", "walpost bookmark advance old, or drop it")
	if all, err := bookmark.List(t.Context(), conn, "orders"); err != nil || len(all) != 1 || all[0].Status != "unreserved" {
		t.Errorf("got %+v, %v, want one that is unreserved", all, err)
	}
	exec("CHECKPOINT")
	want(Fail, `bookmark "old" is lost`, "walpost bookmark drop old")
	exec("SELECT pg_drop_replication_slot('orders_bm_old')")
	exec("SELECT pg_create_logical_replication_slot('orders_bm_window', 'pgoutput'), pg_create_logical_replication_slot('orders_bm_young', 'pgoutput')")
	want(OK, "2, of which", "")
	segments(3)
	want(Warn, `bookmark "window" keeps`, "lower replay.window or replay.max_bytes")
	exec("ALTER SYSTEM SET max_slot_wal_keep_size = -1")
	exec("SELECT pg_reload_conf()")
	exec("SELECT pg_sleep(0.5)")
	want(OK, `"window" keeps most`, "")
}
