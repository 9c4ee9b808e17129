package main

import (
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
}

func (c *cli) initCommand() *cobra.Command {
	var opts initOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Create what is missing: outbox table, publication, checkpoint table, slot",
		Long: `Create what is missing: outbox table, publication, checkpoint table and slot.
What exists is left as it is, so that init can be run again. --print writes the
SQL instead, for a DBA to read and apply with psql.

Each object is reported as created or exists. The slot waits for every
transaction that is open and has written something, for 30s at most.`,
		Example: `  walpost init --dsn postgres://postgres@db/orders
  walpost init --print > outbox.sql
  walpost init --no-table --outbox.table app.events`,
		Args: noArgs,
	}
	config.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&opts.print, "print", false, "print the SQL, and connect to nothing")
	cmd.Flags().BoolVar(&opts.noTable, "no-table", false, "leave the outbox table to the application")
	cmd.Flags().StringVar(&opts.role, "role", "", "also create this role, with no more rights than streaming needs")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		steps, err := initSteps(cfg, opts)
		if err != nil {
			return &usageError{err}
		}
		if opts.print {
			return c.print(steps, func(w io.Writer) error { return printSteps(w, steps) })
		}
		results, err := applyInit(cmd.Context(), cfg, steps)
		return errors.Join(c.print(results, func(w io.Writer) error { return printResults(w, results) }), err)
	}
	return cmd
}

func initSteps(cfg config.Config, opts initOptions) ([]sqlfiles.Step, error) {
	names := sqlfiles.Names{
		Publication: cfg.Postgres.Publication, Slot: cfg.Postgres.Slot, Role: opts.role,
		NoFailover: cfg.Postgres.Failover == config.FailoverOff,
	}
	for _, t := range cfg.Outbox.Tables {
		names.Tables = append(names.Tables, pgx.Identifier{t.Schema, t.Name})
	}
	var files []string
	if !opts.noTable {
		files = append(files, sqlfiles.Outbox)
	}
	files = append(files, sqlfiles.Publication)
	if cfg.Checkpoint.Store == config.StorePostgres || cfg.Checkpoint.Store == config.StoreKafka { // which notes there that it is used
		files = append(files, sqlfiles.Checkpoint)
	}
	if opts.role != "" {
		files = append(files, sqlfiles.Role)
	}
	// The slot comes last: from then on the server keeps WAL for us.
	return sqlfiles.Render(names, append(files, sqlfiles.Slot)...)
}

func printSteps(w io.Writer, steps []sqlfiles.Step) error {
	for _, s := range steps {
		if _, err := fmt.Fprintf(w, "%s\n", s.SQL); err != nil {
			return err
		}
	}
	return nil
}
