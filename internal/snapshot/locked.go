package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// lockTimeout is how long a table that another session has for itself is waited for before the
// log says who that is; then it is waited for again.
const lockTimeout = 10 * time.Second

// locks waits for locks on tables. Safe for concurrent use.
type locks struct {
	log     *slog.Logger
	timeout time.Duration

	mu   sync.Mutex
	told time.Time
}

// lock locks a table, as LOCK TABLE names it, against being dropped or rewritten. The transaction
// waits for no other lock for the timeout, and fails with 55P03 after it.
func (l *locks) lock(ctx context.Context, conn *pgx.Conn, from string) error {
	_, err := conn.PgConn().Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d; LOCK TABLE %s IN ACCESS SHARE MODE; SET LOCAL lock_timeout = 0",
		l.timeout.Milliseconds(), from)).ReadAll()
	return err
}

// wait calls f, which begins a transaction and locks the table, until it need not wait for longer
// than the timeout, or ctx ends. Between two calls the session has no transaction, and keeps
// nothing from being removed.
func (l *locks) wait(ctx context.Context, conn *pgx.Conn, table pgx.Identifier, f func() error) error {
	for {
		err := f()
		if !hasCode(err, "55P03") { // lock_not_available
			return err
		}
		if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
			return readError(table, err)
		}
		if err := l.tell(ctx, conn, table); err != nil {
			return readError(table, err)
		}
	}
}

// tell logs who has the table, or a partition of it, for himself, or waits to have it.
func (l *locks) tell(ctx context.Context, conn *pgx.Conn, table pgx.Identifier) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.told) < l.timeout { // several sessions wait for the same
		return nil
	}
	const query = `WITH RECURSIVE target AS (SELECT oid, relkind FROM pg_class WHERE oid = to_regclass($1)),` + pgsource.Tree + `
		SELECT coalesce((SELECT format('pid %s, role %s, application %L, %s, begun %s ago', pid, usename, application_name, state,
				date_trunc('second', clock_timestamp() - xact_start))
			FROM pg_locks JOIN pg_stat_activity USING (pid)
			WHERE relation IN (SELECT oid FROM tree) AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
				AND mode = 'AccessExclusiveLock'
			ORDER BY granted DESC, xact_start LIMIT 1), 'it is over by now')`
	var holder string
	if err := conn.QueryRow(ctx, query, table.Sanitize()).Scan(&holder); err != nil {
		return err
	}
	l.told = time.Now()
	l.log.Warn("snapshot: another session has the table locked, and is waited for", "table", table.Sanitize(), "session", holder)
	return nil
}
