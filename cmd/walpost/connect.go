package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

const (
	// connectTimeout bounds the making of a connection to one address.
	connectTimeout = 10 * time.Second

	// cancelDelay is how long the server may take to end a statement that
	// was cancelled, before the connection is given up.
	cancelDelay = 2 * time.Second
)

// connect opens a session, without the limits that server, role and database have for statements,
// transactions and idle sessions: what takes long, as moving a bookmark or counting rows, has one
// of its own, or the user's patience, and upkeep is idle in between. A lock_timeout stays, since it
// is there for those who wait behind, and so does what the DSN or PGOPTIONS asks for.
func connect(ctx context.Context, dsn string) (*pgx.Conn, error) {
	cfg, err := connConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, connectHint(fmt.Errorf("connect to Postgres: %w", err))
	}
	const lift = `SELECT set_config(name, '0', false) FROM pg_settings
		WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_session_timeout') AND source <> 'client'` // transaction_timeout from 17 on
	if _, err := conn.Exec(ctx, lift); err != nil {
		closeConn(ctx, conn)
		return nil, fmt.Errorf("connect to Postgres: lift the session's timeouts: %w", err)
	}
	return conn, nil
}

// connConfig makes a statement whose context ends wait until the server has
// cancelled it. By default that is done behind our back, and walpost may be gone
// before: the server would go on, as with creating a slot.
func connConfig(dsn string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "walpost"
	}
	if cfg.ConnectTimeout == 0 || cfg.ConnectTimeout > connectTimeout {
		cfg.ConnectTimeout = connectTimeout
	}
	cfg.RuntimeParams["datestyle"] = "ISO" // all that the driver reads
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelDelay}
	}
	return cfg, nil
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelDelay)
	defer cancel()
	_ = conn.Close(ctx) // all is committed
}
