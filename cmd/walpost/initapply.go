package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/walpost/walpost/internal/config"
	sqlfiles "github.com/walpost/walpost/sql"
)

const (
	// initConnectTimeout bounds the making of a connection to one address.
	initConnectTimeout = 10 * time.Second

	// initStepTimeout bounds a step. That of the slot waits until every
	// transaction that is running and has written anything is over, and run
	// waits as long.
	initStepTimeout = 30 * time.Second

	// initCancelDelay is how long the server may take to end a statement that
	// was cancelled, before the connection is given up.
	initCancelDelay = 2 * time.Second
)

// What became of an object.
const (
	stateCreated = "created"
	stateExists  = "exists" // and was left as it is
	stateFailed  = "failed"
)

// initResult says what became of an object.
type initResult struct {
	File  string `json:"file"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	State string `json:"state"`
	Error string `json:"error,omitempty"`
}

func printResults(w io.Writer, results []initResult) error {
	for _, r := range results {
		if _, err := fmt.Fprintf(w, "%-7s  %s %s\n", r.State, r.Kind, r.Name); err != nil {
			return err
		}
	}
	return nil
}

// applyInit connects and applies the steps.
func applyInit(ctx context.Context, cfg config.Config, steps []sqlfiles.Step) ([]initResult, error) {
	conn, err := connectInit(ctx, cfg.Postgres.ConnString())
	if err != nil {
		return []initResult{}, err
	}
	defer closeInit(ctx, conn)
	return applySteps(ctx, conn, steps, initStepTimeout)
}

// connectInit opens a session.
func connectInit(ctx context.Context, dsn string) (*pgx.Conn, error) {
	cfg, err := initConnConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, connectHint(fmt.Errorf("connect to Postgres: %w", err))
	}
	return conn, nil
}

// initConnConfig makes a statement whose context ends wait until the server has
// cancelled it. By default that is done behind our back, and init may be gone
// before: the server would go on creating the slot.
func initConnConfig(dsn string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "walpost"
	}
	if cfg.ConnectTimeout == 0 || cfg.ConnectTimeout > initConnectTimeout {
		cfg.ConnectTimeout = initConnectTimeout
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: initCancelDelay}
	}
	return cfg, nil
}

func closeInit(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), initCancelDelay)
	defer cancel()
	_ = conn.Close(ctx) // all is committed
}

// applySteps applies each step in a transaction of its own, up to the first that
// fails, for at most limit each.
func applySteps(ctx context.Context, conn *pgx.Conn, steps []sqlfiles.Step, limit time.Duration) ([]initResult, error) {
	results := []initResult{}
	for _, s := range steps {
		made, err := applyStep(ctx, conn, s, limit)
		results = append(results, made...)
		if err != nil {
			return results, err
		}
	}
	return results, nil
}

// applyStep returns what became of each object of the step.
func applyStep(ctx context.Context, conn *pgx.Conn, s sqlfiles.Step, limit time.Duration) ([]initResult, error) {
	var results []initResult
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errStepTimeout)
	defer cancel()
	for _, o := range s.Objects {
		r := initResult{File: s.File, Kind: o.Kind, Name: o.Name, State: stateCreated}
		found, err := o.Exists(ctx, conn)
		if err != nil {
			return results, stepError(ctx, conn, s, limit, err)
		}
		if found {
			r.State = stateExists
		}
		results = append(results, r)
	}
	_, err := conn.PgConn().Exec(ctx, s.SQL).ReadAll()
	if err == nil {
		return results, nil
	}
	for i := range results {
		if results[i].State == stateCreated {
			results[i].State, results[i].Error = stateFailed, err.Error()
		}
	}
	return results, stepError(ctx, conn, s, limit, err)
}

var errStepTimeout = errors.New("took too long")
