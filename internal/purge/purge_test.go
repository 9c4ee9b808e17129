package purge

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

// A batch does not wait for a locked row for longer than its bound, and says what it may have waited for.
func TestLockedRow(t *testing.T) {
	db := envtest.NewDatabase(t)
	db.Exec(t, "CREATE TABLE outbox (id int); INSERT INTO outbox SELECT generate_series(1, 3)")
	holder := db.Connect(t)
	config, err := pgx.ParseConfig(db.DSN)
	if err != nil {
		t.Fatal(err)
	}
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler { // as the program does
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Minute}
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // the test is over
	if _, err := holder.PgConn().Exec(t.Context(), "BEGIN; SELECT FROM outbox WHERE id = 2 FOR UPDATE").ReadAll(); err != nil {
		t.Fatal(err)
	}
	var xid string
	if err := conn.QueryRow(t.Context(), "SELECT pg_snapshot_xmax(pg_current_snapshot())::text").Scan(&xid); err != nil {
		t.Fatal(err)
	}
	cfg, table := Config{batchTimeout: 200 * time.Millisecond}, pgx.Identifier{"public", "outbox"}
	if _, err := cfg.batch(t.Context(), conn, table, xid, 0, nil); err == nil || !strings.Contains(err.Error(), "another session may have a row") {
		t.Errorf("batch() = %v, want that a row is locked", err)
	}
	if _, err := holder.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if n, err := (Config{}).batch(t.Context(), conn, table, xid, 0, nil); n != 3 || err != nil {
		t.Errorf("batch() = %d, %v afterwards, want 3 rows", n, err)
	}
}
