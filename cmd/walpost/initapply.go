package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/config"
	sqlfiles "github.com/walpost/walpost/sql"
)

// initStepTimeout bounds a step. That of the slot waits until every transaction that is
// running and has written anything is over, and run waits as long.
const initStepTimeout = 30 * time.Second

// What became of an object.
const (
	stateCreated = "created"
	stateExists  = "exists"  // and was left as it is
	stateUpdated = "updated" // from an earlier version
	stateFailed  = "failed"
	stateLater   = "later" // walpost run makes it, with the snapshot
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
func (c *cli) applyInit(ctx context.Context, cfg config.Config, steps []sqlfiles.Step) ([]initResult, error) {
	conn, err := connect(ctx, cfg.Postgres.ConnString())
	if err != nil {
		return []initResult{}, err
	}
	defer closeConn(ctx, conn)
	if steps, err = withOlder(ctx, conn, cfg, steps); err != nil {
		return []initResult{}, err
	}
	slots := slotsOf(steps)
	if err := usedBefore(ctx, conn, cfg, slots); err != nil {
		return []initResult{}, err
	}
	results, err := applySteps(ctx, conn, steps, initStepTimeout)
	if err == nil {
		err = c.besideOthers(ctx, conn, slots, results)
	}
	return results, err
}

// withOlder puts before the steps those of the objects of an earlier version that they do
// not have: without --partitioned too, what --partitioned once made is brought up to date.
func withOlder(ctx context.Context, conn *pgx.Conn, cfg config.Config, steps []sqlfiles.Step) ([]sqlfiles.Step, error) {
	versions, err := sqlfiles.Versions(ctx, conn)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, v := range versions {
		if v.Older() && v.File != sqlfiles.Emit && !slices.ContainsFunc(steps, func(s sqlfiles.Step) bool { return s.File == v.File }) {
			files = append(files, v.File) // walpost.emit needs a prefix, and with one it is among the steps
		}
	}
	if len(files) == 0 {
		return steps, nil
	}
	first, err := sqlfiles.Render(sqlfiles.Names{Tables: outboxTables(cfg)}, files...)
	return append(first, steps...), err
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
	versions, err := sqlfiles.Versions(ctx, conn)
	if err != nil {
		return nil, stepError(ctx, conn, s, limit, err)
	}
	existing := stateExists
	if slices.ContainsFunc(versions, func(v sqlfiles.Version) bool { return v.File == s.File && v.Older() }) {
		existing = stateUpdated
	}
	for _, o := range s.Objects {
		r := initResult{File: s.File, Kind: o.Kind, Name: o.Name, State: stateCreated}
		found, err := o.Exists(ctx, conn)
		if err != nil {
			return results, stepError(ctx, conn, s, limit, err)
		}
		if found {
			r.State = existing
		}
		results = append(results, r)
	}
	_, err = conn.PgConn().Exec(ctx, s.SQL).ReadAll()
	if err == nil {
		return results, nil
	}
	for i := range results {
		if results[i].State != stateExists {
			results[i].State, results[i].Error = stateFailed, err.Error()
		}
	}
	return results, stepError(ctx, conn, s, limit, err)
}

var errStepTimeout = errors.New("took too long")
