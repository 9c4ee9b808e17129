package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/replay"
	"github.com/walpost/walpost/pkg/cdc"
)

// replayOptions are replay's own flags.
type replayOptions struct {
	from, to, resume, timestamp, source, orderBy string
	dry                                          bool
	given                                        func(flag string) bool // on the command line; nil for one of run's own
	replay.Options
}

func (c *cli) replayCommand() *cobra.Command {
	var opts replayOptions
	cmd := &cobra.Command{
		Use:   "replay --from LSN|TIME|BOOKMARK",
		Short: "Publish again what was published once",
		Long: `Publish again what was published once, in commit order, each record with the header
walpost-replay and the replay's id, and else as it was. The events are read from the
WAL that a bookmark keeps, or the window of replay.window: nothing that streams is
touched, and the service goes on.

--from and --to take an LSN, as walpost checkpoint show prints it; a time, in UTC if
it has no zone; how long ago, as in -90m; or a bookmark. Without --to the replay goes
as far as the slot is confirmed.

Where WAL no longer has them, --source table publishes rows that are still in the table,
ordered by --order-by, which is the order of commits only nearly; --from and --to are
times then. It cannot be resumed. The role needs SELECT on the table.

A replay that was stopped or has died goes on with --resume ID. After a stop nothing
is repeated; after a death what was published since the last save, a second or so. It
goes on as it was begun; --rate alone may be given anew, and holds until it ends or is
stopped.`,
		Example: `  walpost replay --from -2h --dry-run
  walpost replay --from before_migration --to 2026-01-31T14:00:00Z --topic outbox.event.order
  walpost replay --from 16/B374D848 --key order-17 --rate 500`,
		Args: noArgs,
	}
	f := cmd.Flags()
	f.StringVar(&opts.from, "from", "", "where to begin: LSN, time, time ago or bookmark")
	f.StringVar(&opts.to, "to", "", "where to end (default where the slot is confirmed)")
	f.StringVar(&opts.Key, "key", "", "only events of this key")
	f.StringVar(&opts.Type, "type", "", "only events whose column type holds this")
	f.StringVar(&opts.Topic, "topic", "", "only events of this topic")
	f.StringVar(&opts.Into, "into", "", "publish to this topic in place of their own")
	f.Float64Var(&opts.Rate, "rate", 0, "most events per second; 0 for no limit")
	f.StringVar(&opts.timestamp, "timestamp", "commit", "the records' timestamps: commit, as they were, or now, where the topic's retention.ms would drop older ones")
	f.StringVar(&opts.source, "source", "wal", "where the events come from: wal, or table: what was committed before the last entry of the checkpoint log, which gets none while nothing is published")
	f.StringVar(&opts.orderBy, "order-by", "created_at", "column of the table that tells when a row was written")
	f.BoolVar(&opts.dry, "dry-run", false, "count what would be published, and publish nothing")
	f.StringVar(&opts.resume, "resume", "", "go on with the replay of this id")
	opts.given = f.Changed
	judge := func(config.Config, []string) error { return opts.check() }
	return c.onServer(cmd, judge, func(ctx context.Context, cfg config.Config, conn *pgx.Conn, _ []string) error {
		opts.Now = opts.timestamp == "now"
		if opts.source == "table" {
			return c.replayTable(ctx, cfg, conn, opts)
		}
		return c.replay(ctx, cfg, conn, opts)
	})
}

// check returns all that is wrong with the flags as far as they themselves tell.
func (o *replayOptions) check() error {
	var errs []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	table, wal := o.source == "table", o.source == "wal"
	wrong(!table && !wal, "--source %q: want wal or table", o.source)
	wrong(table && o.resume != "", "--resume does not go with --source table: a replay from the table cannot be resumed")
	wrong(!table && o.given("order-by"), "--order-by goes with --source table only: WAL is in the order of commits")
	wrong(wal && o.from == "" && o.resume == "", "give --from, or --resume")
	if begun := o.begunWith(); o.resume != "" && len(begun) > 0 {
		wrong(true, "--resume goes on with what the replay was begun with: leave out %s", strings.Join(begun, ", "))
	} else {
		errs = append(errs, o.checkPoints())
	}
	wrong(o.timestamp != "commit" && o.timestamp != "now", "--timestamp %q: want commit or now", o.timestamp)
	wrong(o.Rate < 0 || math.IsNaN(o.Rate), "--rate %g: want 0 or more", o.Rate)
	return errors.Join(errs...)
}

// begunWith are the flags given that a replay keeps from where it was begun.
func (o *replayOptions) begunWith() (flags []string) {
	for _, name := range []string{"from", "to", "key", "type", "topic", "into", "dry-run"} {
		if o.given(name) {
			flags = append(flags, "--"+name)
		}
	}
	return flags
}

// checkPoints judges --from and --to, of which the server knows the bookmarks only.
func (o *replayOptions) checkPoints() error {
	if o.source == "table" {
		_, err := replay.ResolveTable("", o.from, o.to, o.Options)
		return err
	}
	return errors.Join(replay.CheckPoint("--from", o.from), replay.CheckPoint("--to", o.to))
}

// replayResult is what walpost replay prints.
type replayResult struct {
	replay.Plan
	Dry      bool    `json:"dry_run"`
	Finished bool    `json:"finished"`
	Reached  cdc.LSN `json:"reached"`
	Seconds  float64 `json:"seconds"`
	replay.Counts
}

// plan makes a plan, or takes up the one to resume.
func (o *replayOptions) plan(ctx context.Context, conn *pgx.Conn, slot string) (replay.Plan, error) {
	if o.resume == "" {
		return replay.Resolve(ctx, conn, slot, o.from, o.to, o.Options)
	}
	plan, err := replay.Load(ctx, conn, o.resume)
	if err != nil {
		return plan, err
	}
	if plan.Slot != slot {
		return plan, cdc.Refuse("give the configuration that it was begun with, and its --postgres.shard", "replay %s is of slot %q, and postgres.slot is %q", plan.ID, plan.Slot, slot)
	}
	if o.given("timestamp") && o.Now != plan.Now {
		return plan, cdc.Refuse("leave --timestamp out to go on as before, or begin another replay with --from", "replay %s was begun with another --timestamp than %s", plan.ID, o.timestamp)
	}
	if o.given("rate") {
		plan.Rate = o.Rate
	}
	return plan, nil
}

func (c *cli) replay(ctx context.Context, cfg config.Config, conn *pgx.Conn, opts replayOptions) error {
	plan, err := opts.plan(ctx, conn, cfg.Postgres.Slot)
	if err != nil {
		return err
	}
	r, err := c.newReplay(ctx, cfg, conn, plan)
	if err != nil {
		return err
	}
	defer r.bar.Done()
	begun := time.Now()
	if opts.dry {
		err = r.dry(ctx)
	} else {
		if opts.resume == "" {
			if err := plan.Save(ctx, conn); err != nil {
				return err
			}
		}
		if err := plan.Lock(ctx, conn); err != nil {
			return err
		}
		_, _ = fmt.Fprintf(c.stderr, "replay %s: %s\n", plan.ID, plan.String())
		err = r.run(ctx, cfg, conn)
	}
	r.bar.Done()
	if err != nil {
		if !opts.dry {
			c.hint(fmt.Sprintf("walpost replay --resume %s goes on", plan.ID))
		}
		return err
	}
	res := replayResult{Plan: plan, Dry: opts.dry, Finished: r.finished, Reached: r.reached, Seconds: time.Since(begun).Seconds(), Counts: r.route.Counts()}
	return c.print(res, res.print)
}

func (r replayResult) print(w io.Writer) error {
	verb := "published again"
	if r.Dry {
		verb = "would be published again"
	}
	_, _ = fmt.Fprintf(w, "%s events %s, %s passed over, in %.1f s\n", humanize.Comma(r.Published), verb, humanize.Comma(r.Passed), r.Seconds)
	var topics []string
	for t := range r.Topics {
		topics = append(topics, t)
	}
	slices.Sort(topics)
	for _, t := range topics {
		_, _ = fmt.Fprintf(w, "  %s  %s\n", t, humanize.Comma(r.Topics[t]))
	}
	if !r.First.IsZero() {
		_, _ = fmt.Fprintf(w, "committed from %s to %s\n", r.First.UTC().Format(time.RFC3339), r.Last.UTC().Format(time.RFC3339))
	}
	if r.Waiting > 0 {
		_, _ = fmt.Fprintf(w, "%s events are dead or parked, and were passed over: walpost dlq list prints the dead ones, and dlq retry publishes them\n", humanize.Comma(r.Waiting))
	}
	if r.Poison > 0 {
		_, _ = fmt.Fprintf(w, "%s rows can never be published, and were left out: see walpost dlq list\n", humanize.Comma(r.Poison))
	}
	if !r.Finished && !r.Dry {
		_, err := fmt.Fprintf(w, "stopped at %s of %s: walpost replay --resume %s goes on\n", r.Reached, r.To, r.ID)
		return err
	}
	_, err := fmt.Fprintln(w, "done")
	return err
}
