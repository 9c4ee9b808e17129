package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
	sqlfiles "github.com/walpost/walpost/sql"
)

// initOptions are init's own flags.
type initOptions struct {
	print, noTable bool
	role           string
	partitioned    string
	shards         int
	takeOver       string
}

func (c *cli) initCommand() *cobra.Command {
	var opts initOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Create what is missing: outbox table, publication, checkpoint table, slot",
		Long: `Create what is missing: outbox table, publication, checkpoint table and slot.
What exists is left as it is, so that init can be run again; but walpost's own tables
and functions of an earlier version are brought to the present one. --print writes the
SQL instead, for a DBA to read and apply with psql.

With --partitioned the outbox table is partitioned by created_at, walpost run makes
partitions ahead, and walpost purge drops those that are old and published as a whole.

With --take-over the slot of another publisher, as Debezium's, which must have stopped,
becomes walpost's: init looks for its last events in Kafka by their ids, and saves the
position behind them, so that walpost run goes on with the next one.

With snapshot: initial the slot is left to walpost run, which makes it with the snapshot.

Each object is reported as created, exists or updated. The slot waits for every
transaction that is open and has written something, for 30s at most.`,
		Example: `  walpost init --dsn postgres://postgres@db/orders
  walpost init --print > outbox.sql
  walpost init --no-table --outbox.table app.events
  walpost init --partitioned day --role walpost
  walpost init --shards 3
  walpost init --take-over debezium --publication dbz_publication`,
		Args: noArgs,
	}
	config.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&opts.print, "print", false, "print the SQL, and connect to nothing")
	cmd.Flags().BoolVar(&opts.noTable, "no-table", false, "leave the outbox table to the application")
	cmd.Flags().StringVar(&opts.role, "role", "", "also create this role, with no more rights than streaming needs")
	cmd.Flags().StringVar(&opts.partitioned, "partitioned", "", "partition the outbox table by day or week, in UTC")
	cmd.Flags().IntVar(&opts.shards, "shards", 0, "make a publication and a slot for each of so many shards")
	cmd.Flags().StringVar(&opts.takeOver, "take-over", "", "go on with this slot where its publisher, which must have stopped, has stopped")
	exclude(cmd, "take-over", "shards", "partitioned", "print")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		if opts.takeOver != "" {
			return c.takeOver(cmd.Context(), cfg, opts)
		}
		if cmd.Flags().Changed("shards") && opts.shards == 0 {
			return &usageError{wantShards(0)}
		}
		if opts.noTable && opts.partitioned != "" {
			return &usageError{errors.New("--partitioned is about the table that --no-table leaves to the application: give one of the two")}
		}
		steps, err := initSteps(cfg, opts)
		if err != nil {
			return &usageError{err}
		}
		return c.initWith(cmd.Context(), cfg, opts, steps)
	}
	return cmd
}

// initWith prints the steps or carries them out.
func (c *cli) initWith(ctx context.Context, cfg config.Config, opts initOptions, steps []sqlfiles.Step) error {
	if opts.print {
		return c.print(steps, func(w io.Writer) error { return printSteps(w, steps) })
	}
	results, err := c.applyInit(ctx, cfg, steps)
	if err == nil && cfg.Snapshot == config.SnapshotInitial {
		results = append(results, initResult{File: sqlfiles.Slot, Kind: "slot", Name: cfg.Postgres.Slot, State: stateLater})
	}
	return errors.Join(c.print(results, func(w io.Writer) error { return printResults(w, results) }), err)
}

// initSteps returns all steps, those of each shard's publication and slot among them.
func initSteps(cfg config.Config, opts initOptions) ([]sqlfiles.Step, error) {
	each, err := initNames(cfg, opts)
	if err != nil {
		return nil, err
	}
	if err := checkNames(each); err != nil {
		return nil, err
	}
	var (
		steps []sqlfiles.Step
		errs  []error
	)
	add := func(names sqlfiles.Names, files ...string) {
		more, err := sqlfiles.Render(names, files...)
		steps, errs = append(steps, more...), append(errs, err)
	}
	if !opts.noTable {
		add(each[0], sqlfiles.Outbox)
	}
	for _, names := range each {
		add(names, sqlfiles.Publication)
	}
	if keepsTables(cfg) || cfg.Snapshot == config.SnapshotInitial {
		add(each[0], sqlfiles.Checkpoint)
	}
	if opts.partitioned != "" {
		add(each[0], sqlfiles.Partitions)
	}
	if opts.role != "" {
		add(each[0], sqlfiles.Role)
	}
	if cfg.Messages.Prefix != "" {
		add(each[0], sqlfiles.Emit)
	}
	if cfg.Snapshot == config.SnapshotInitial { // run makes the slot, with the snapshot
		each = nil
	}
	for _, names := range each { // last: from then on the server keeps WAL for us
		add(names, sqlfiles.Slot)
	}
	return steps, errors.Join(errs...)
}

// checkNames tells each problem once, though it is every shard's.
func checkNames(each []sqlfiles.Names) error {
	var errs []error
	told := map[string]bool{}
	for _, names := range each {
		for _, err := range names.Problems() {
			if err != nil && !told[err.Error()] {
				told[err.Error()] = true
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func wantShards(got int) error { return fmt.Errorf("--shards %d: want 1 to %d", got, config.MaxShards) }

func outboxTables(cfg config.Config) []pgx.Identifier {
	names := make([]pgx.Identifier, len(cfg.Outbox.Tables))
	for i, t := range cfg.Outbox.Tables {
		names[i] = pgx.Identifier{t.Schema, t.Name}
	}
	return names
}

// initNames returns the names for each shard, or those of all keys.
func initNames(cfg config.Config, opts initOptions) ([]sqlfiles.Names, error) {
	names := sqlfiles.Names{
		Publication: cfg.Postgres.Publication, Slot: cfg.Postgres.Slot, Role: opts.role,
		NoFailover: cfg.Postgres.Failover == config.FailoverOff, Shard: cfg.Postgres.Shard.String(), Key: cfg.Outbox.Key,
		Partitioned: opts.partitioned, Prefix: cfg.Messages.Prefix, Tables: outboxTables(cfg),
	}
	switch {
	case opts.shards == 0:
		return []sqlfiles.Names{names}, nil
	case opts.shards < 0 || opts.shards > config.MaxShards:
		return nil, wantShards(opts.shards)
	case cfg.Postgres.Shard != config.Shard{}:
		return nil, fmt.Errorf("--shards %d makes all shards, and postgres.shard %s names one: give one of the two", opts.shards, cfg.Postgres.Shard)
	}
	each := make([]sqlfiles.Names, opts.shards)
	for i := range each {
		shard := config.Shard{Index: i, Count: opts.shards}
		each[i] = names
		each[i].Shard, each[i].Publication, each[i].Slot = shard.String(), shard.Name(names.Publication), shard.Name(names.Slot)
	}
	return each, nil
}

func printSteps(w io.Writer, steps []sqlfiles.Step) error {
	for _, s := range steps {
		if _, err := fmt.Fprintf(w, "%s\n", s.SQL); err != nil {
			return err
		}
	}
	return nil
}
