package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

func (c *cli) bookmarkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bookmark",
		Short: "Keep positions to publish again from",
		Long: `Keep named positions, from which walpost replay can publish again. Each is a
replication slot of its own, SLOT_bm_NAME, which nobody streams from: the server
keeps all WAL from there on, and the dead rows of its catalogs, until the bookmark
is advanced or dropped. max_slot_wal_keep_size bounds that: a bookmark that goes
beyond it is lost. A purge keeps the rows behind it until it is dropped.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.bookmarkCreate(), c.bookmarkList(), c.bookmarkAdvance(), c.bookmarkDrop())
	return cmd
}

// onServer makes a command that loads the configuration, has it and the arguments judged, and
// only then connects. What judge finds wrong is a usage error; nil judges nothing.
func (c *cli) onServer(cmd *cobra.Command, judge func(cfg config.Config, args []string) error, do func(ctx context.Context, cfg config.Config, conn *pgx.Conn, args []string) error) *cobra.Command {
	config.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		if judge != nil {
			if err := judge(cfg, args); err != nil {
				return &usageError{err}
			}
		}
		conn, err := connect(cmd.Context(), cfg.Postgres.ConnString())
		if err != nil {
			return err
		}
		defer closeConn(cmd.Context(), conn)
		return do(cmd.Context(), cfg, conn, args)
	}
	return cmd
}

// oneName is for commands that want the name of a bookmark.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return &usageError{fmt.Errorf("%s: want the name of one bookmark, got %d", cmd.CommandPath(), len(args))}
	}
	return nil
}

// judgeBookmark judges the name of a bookmark.
func judgeBookmark(cfg config.Config, args []string) error {
	_, err := bookmark.SlotName(cfg.Postgres.Slot, args[0])
	return err
}

func (c *cli) bookmarkCreate() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Keep the WAL from here on",
		Long: `Keep the WAL from where the slot is confirmed (--at checkpoint), so that what is in
flight is kept too, or from the end of WAL (--at now). One that would keep more than
replay.max_bytes at once is refused.`,
		Example: "  walpost bookmark create before_migration",
		Args:    oneName,
	}
	cmd.Flags().StringVar(&at, "at", "checkpoint", "where it stands: checkpoint or now")
	judge := func(cfg config.Config, args []string) error {
		errs := []error{judgeBookmark(cfg, args)}
		if at != "checkpoint" && at != "now" {
			errs = append(errs, fmt.Errorf("--at %q: want checkpoint or now", at))
		}
		if args[0] == bookmark.WindowName {
			errs = append(errs, fmt.Errorf("bookmark %q is the service's own: set replay.window, or give another name", bookmark.WindowName))
		}
		return errors.Join(errs...)
	}
	return c.onServer(cmd, judge, func(ctx context.Context, cfg config.Config, conn *pgx.Conn, args []string) error {
		b, err := bookmark.Create(ctx, conn, cfg.Postgres.Slot, args[0], at == "now", bookmark.Limits{MaxBytes: int64(cfg.Replay.MaxBytes)})
		if err != nil {
			return err
		}
		return c.print(b, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "bookmark %s at %s\n", b.Name, b.LSN)
			return err
		})
	})
}

func (c *cli) bookmarkList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show the bookmarks, what they keep and since when",
		Args:  noArgs,
	}
	return c.onServer(cmd, nil, func(ctx context.Context, cfg config.Config, conn *pgx.Conn, _ []string) error {
		all, err := bookmark.List(ctx, conn, cfg.Postgres.Slot)
		if err == nil && len(all) == 0 {
			err = pgsource.RefuseBeside(ctx, conn, cfg.Postgres.Slot, "and has no bookmarks")
		}
		if err != nil {
			return err
		}
		return c.print(all, func(w io.Writer) error { return printBookmarks(w, all) })
	})
}

func printBookmarks(w io.Writer, all []bookmark.Bookmark) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "BOOKMARK\tLSN\tSET\tRETAINED\tSTATUS") // Flush tells
	for _, b := range all {
		since := "unknown"
		if b.Since != nil {
			since = humanize.Time(*b.Since)
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", b.Name, b.LSN, since, size(b.Retained), b.Status)
	}
	return tw.Flush()
}

func (c *cli) bookmarkAdvance() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "advance NAME",
		Short: "Move a bookmark forward, and let the server forget what is before it",
		Args:  oneName,
	}
	cmd.Flags().StringVar(&to, "to", "checkpoint", "an LSN, checkpoint, or now")
	var given cdc.LSN // unless --to is a word
	judge := func(cfg config.Config, args []string) (err error) {
		if to != "checkpoint" && to != "now" {
			if given, err = cdc.ParseLSN(to); err != nil {
				err = fmt.Errorf("--to: %w, or checkpoint, or now", err)
			}
		}
		return errors.Join(judgeBookmark(cfg, args), err)
	}
	return c.onServer(cmd, judge, func(ctx context.Context, cfg config.Config, conn *pgx.Conn, args []string) error {
		lsn, err := bookmarkTarget(ctx, conn, cfg.Postgres.Slot, to, given)
		if err != nil {
			return err
		}
		b, err := bookmark.Advance(ctx, conn, cfg.Postgres.Slot, args[0], lsn)
		if err != nil {
			return err
		}
		return c.print(b, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "bookmark %s at %s\n", b.Name, b.LSN)
			return err
		})
	})
}

// bookmarkTarget is the position that --to names: the given one, unless it is a word.
func bookmarkTarget(ctx context.Context, conn *pgx.Conn, slot, to string, given cdc.LSN) (cdc.LSN, error) {
	state, err := pgsource.ReadSlot(ctx, conn, slot)
	switch {
	case err != nil:
		return 0, err
	case state == nil:
		return 0, pgsource.NoSlot(ctx, conn, slot, cdc.Refuse("set postgres.slot", "slot %q does not exist", slot))
	}
	switch to {
	case "checkpoint":
		return state.ConfirmedFlush, nil
	case "now":
		return state.End, nil
	}
	if given > state.End {
		return 0, cdc.Refuse("give one up to there", "--to %s is beyond the end of WAL, %s", given, state.End)
	}
	return given, nil
}

func (c *cli) bookmarkDrop() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drop NAME",
		Short: "Drop a bookmark, and let the server forget what it kept",
		Args:  oneName,
	}
	return c.onServer(cmd, judgeBookmark, func(ctx context.Context, cfg config.Config, conn *pgx.Conn, args []string) error {
		if err := bookmark.Drop(ctx, conn, cfg.Postgres.Slot, args[0]); err != nil {
			return err
		}
		return c.print(struct {
			Bookmark string    `json:"bookmark"`
			Dropped  time.Time `json:"dropped"`
		}{args[0], time.Now()}, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "bookmark %s dropped\n", args[0])
			return err
		})
	})
}
