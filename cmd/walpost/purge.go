package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/purge"
)

func (c *cli) purgeCommand() *cobra.Command {
	var older string
	var dry bool
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Delete rows of the outbox table that are published and old, or drop partitions",
		Long: `Delete rows of the outbox table that are published and older than --older-than, in
small batches with pauses. Of a table that walpost init --partitioned has made no rows
are deleted: partitions are dropped whose time and rows are all that old, and the others
are left. A row that is not published and confirmed, or that lies
behind a bookmark or in the window of replay.window, is never deleted. How old a row
is tells the checkpoint log that walpost run keeps, not a column. With
purge.archive rows are written to a folder first.

The role needs SELECT and DELETE on the table; SELECT and what init --role grants if it
is partitioned.`,
		Example: `  walpost purge --older-than 7d --dry-run
  walpost purge --older-than 36h --purge.archive ndjson --purge.archive_dir /var/lib/walpost/archive`,
		Args: noArgs,
	}
	cmd.Flags().StringVar(&older, "older-than", "", "age, as in 36h or 7d; 0 for all that is published by now (default purge.older_than)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "count, and delete nothing")
	var age time.Duration
	judge := func(cfg config.Config, _ []string) (err error) {
		age, err = purgeAge(cfg, older)
		return err
	}
	return c.onServer(cmd, judge, func(ctx context.Context, cfg config.Config, conn *pgx.Conn, _ []string) error {
		p := purgeConfig(cfg)
		p.Dry, p.OlderThan = dry, age
		r, err := purge.Run(ctx, conn, p)
		if err != nil {
			if r.Deleted > 0 {
				c.complain(fmt.Sprintf("%s rows were deleted before", humanize.Comma(r.Deleted)), "")
			}
			return err
		}
		return c.print(r, func(w io.Writer) error { return printPurge(w, r) })
	})
}

// purgeAge is how old rows must be: what --older-than says, or the configuration.
func purgeAge(cfg config.Config, older string) (time.Duration, error) {
	if older == "" && cfg.Purge.OlderThan == 0 {
		return 0, errors.New("give --older-than, or set purge.older_than")
	}
	if older == "" {
		return cfg.Purge.OlderThan, nil
	}
	d, err := config.ParseSpan(older)
	if err != nil {
		return 0, fmt.Errorf("--older-than: %w", err)
	}
	return d, nil
}

func purgeConfig(cfg config.Config) purge.Config {
	p := purge.Config{
		OlderThan: cfg.Purge.OlderThan, ArchiveDir: cfg.Purge.ArchiveDir, Bucket: cfg.Purge.ArchiveBucket,
		Parquet: cfg.Purge.Archive == config.ArchiveParquet, Pause: 1,
	}
	for _, shard := range cfg.Shards() {
		p.Slots = append(p.Slots, purge.Slot{Name: shard.Postgres.Slot, Publication: shard.Postgres.Publication})
	}
	for _, t := range cfg.Outbox.Tables {
		p.Tables = append(p.Tables, pgx.Identifier{t.Schema, t.Name})
	}
	return p
}

func printPurge(w io.Writer, r purge.Result) error {
	verb := "deleted"
	if r.Dry {
		verb = "would be deleted"
	}
	for _, t := range r.Tables {
		if t.Partition {
			printPartition(w, t, r.Dry)
			continue
		}
		line := fmt.Sprintf("%s rows of %s %s", humanize.Comma(t.Rows), t.Table, verb)
		if r.Dry {
			line += fmt.Sprintf(", %s stay", humanize.Comma(t.Kept))
		}
		_, _ = fmt.Fprintln(w, line)
	}
	if r.Archived > 0 {
		_, _ = fmt.Fprintf(w, "%s rows archived\n", humanize.Comma(r.Archived))
	}
	if len(r.Tables) == 0 {
		_, _ = fmt.Fprintln(w, "nothing to delete or drop")
	}
	_, err := fmt.Fprintf(w, "committed before %s\n", r.Before.UTC().Format(time.RFC3339))
	if r.HeldBy != "" {
		_, err = fmt.Fprintf(w, "no later, since %s\n", r.HeldBy)
	}
	return err
}

func printPartition(w io.Writer, t purge.TableResult, dry bool) {
	verb := "dropped"
	switch {
	case t.Left != "":
		_, _ = fmt.Fprintf(w, "partition %s stays: %s\n", t.Table, t.Left)
		return
	case dry:
		verb = "would be dropped"
	}
	_, _ = fmt.Fprintf(w, "partition %s with %s rows %s\n", t.Table, humanize.Comma(t.Rows), verb)
}
