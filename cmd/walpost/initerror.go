package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/pkg/cdc"
	sqlfiles "github.com/walpost/walpost/sql"
)

// connectHints are what to do about a connection that the server refuses, by
// SQLSTATE.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
var connectHints = map[string]string{
	"28000": "check postgres.dsn, its password, and the server's pg_hba.conf", // invalid_authorization_specification
	"28P01": "check postgres.dsn, its password, and the server's pg_hba.conf", // invalid_password
	"3D000": "name the outbox's database in postgres.dsn",                     // invalid_catalog_name
}

func connectHint(err error) error {
	hint := "check postgres.dsn and the server itself"
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		hint = connectHints[pgErr.Code]
	}
	return &cdc.RefusedError{Err: err, Hint: hint}
}

// stepHints are what a DBA would have to change for a step, by SQLSTATE.
var stepHints = map[string]string{
	"25006": "connect to the primary, or to a database that is not read-only",                           // read_only_sql_transaction
	"3F000": "create the schema of outbox.table first",                                                  // invalid_schema_name
	"42501": "run walpost init as a role that may, or let a DBA apply what walpost init --print writes", // insufficient_privilege
	"42P01": "create the outbox table first, or leave --no-table out",                                   // undefined_table
	"53400": "raise max_replication_slots and restart Postgres, or drop a slot that nothing needs",      // configuration_limit_exceeded
	"55000": "ALTER SYSTEM SET wal_level = logical, and restart Postgres",                               // object_not_in_prerequisite_state
	"55P03": "end what holds the lock, or run walpost init again when it is over",                       // lock_not_available
	"57014": "run walpost init again: somebody has cancelled it",                                        // query_canceled
}

// stepError says what a DBA would have to change. ctx is the step's own.
func stepError(ctx context.Context, conn *pgx.Conn, s sqlfiles.Step, limit time.Duration, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStepTimeout) {
		return timeoutError(ctx, conn, s, limit)
	} else if cause != nil {
		return fmt.Errorf("apply %s: %w", s.File, cause)
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return fmt.Errorf("apply %s: %w", s.File, err)
	}
	hint := cmp.Or(stepHints[pgErr.Code], pgErr.Hint, "walpost init --print shows the SQL")
	return cdc.Refuse(hint, "apply %s: %w", s.File, err)
}

// timeoutError names what the step has probably waited for.
func timeoutError(ctx context.Context, conn *pgx.Conn, s sqlfiles.Step, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
	defer cancel()
	return cdc.Refuse("end that transaction, or run walpost init again when it is over",
		"apply %s: not done in %s, a running transaction is in the way: %s", s.File, limit, blocker(ctx, conn))
}

// blocker names the oldest transaction that has written something, on a session
// of its own: the other may have been given up. The creation of a slot waits for
// those of all databases, and for prepared ones.
func blocker(ctx context.Context, conn *pgx.Conn) string {
	own, err := pgx.ConnectConfig(ctx, conn.Config())
	if err != nil {
		return err.Error()
	}
	defer closeConn(ctx, own)
	const query = `
		SELECT what FROM (
			SELECT format('pid %s, role %s, database %s, application %L, %s, begun %s ago', pid, usename, datname, application_name, state,
				date_trunc('second', now() - xact_start)), xact_start
			FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> $1
			UNION ALL
			SELECT format('prepared transaction %L of role %s, database %s, prepared %s ago', gid, owner, database,
				date_trunc('second', now() - prepared)), prepared
			FROM pg_prepared_xacts) AS open (what, since)
		ORDER BY since LIMIT 1`
	var text string
	if err := own.QueryRow(ctx, query, conn.PgConn().PID()).Scan(&text); err != nil {
		return "it is over by now, or hidden from this role"
	}
	return text
}
