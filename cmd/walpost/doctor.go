package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/inspect"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

func (c *cli) doctorCommand() *cobra.Command {
	var bundle string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check everything, without streaming: servers, role, slot, head-room, topics",
		Long: `Check everything without streaming, and change nothing: the database server and its
settings, the role, table and publication, the slot and what it keeps, the checkpoint,
bookmarks, the brokers, topics and their settings, and the running instance. A line for
each check: ok, warn or fail, with what mends it. Exits with 1 if any fails.

--bundle also writes a tar.gz for who helps: the checks, the configuration with secrets
masked, what the server says of slots, settings and sessions, and the instance's
status, metrics and recent warnings. It holds no events and no statements.`,
		Args: noArgs,
	}
	config.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&bundle, "bundle", "", "file to write, as in walpost-bundle.tar.gz")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		checks := examine(cmd.Context(), cfg)
		if bundle != "" {
			if err := writeBundle(cmd.Context(), cfg, checks, bundle); err != nil {
				return err
			}
		}
		if err := c.print(checks, func(w io.Writer) error { return printChecks(w, checks) }); err != nil {
			return err
		}
		n := 0
		for _, check := range checks {
			if check.Verdict == inspect.Fail {
				n++
			}
		}
		if n > 0 {
			return fmt.Errorf("%d of %d checks failed", n, len(checks))
		}
		return nil
	}
	return cmd
}

func printChecks(w io.Writer, checks []inspect.Check) error {
	for _, c := range checks {
		if _, err := fmt.Fprintf(w, "%-4s  %s: %s\n", c.Verdict, c.Name, c.Text); err != nil {
			return err
		}
		if c.Mend != "" {
			if _, err := fmt.Fprintf(w, "      %s\n", c.Mend); err != nil {
				return err
			}
		}
	}
	return nil
}

// examine makes all checks. What one needs and cannot be had is a failed check.
func examine(ctx context.Context, cfg config.Config) []inspect.Check {
	checks, oldest := examinePostgres(ctx, cfg)
	checks = append(checks, examineKafka(ctx, cfg, oldest)...)
	checks = append(checks, examineCopies(ctx, cfg)...)
	checks = append(checks, examineSchemas(ctx, cfg)...)
	return append(checks, examineHere(ctx, cfg)...)
}

func failedCheck(name string, err error, mend string) inspect.Check {
	return inspect.Check{Name: name, Verdict: inspect.Fail, Text: cdc.OneLine(err), Mend: mend}
}

// examinePostgres also returns how old the oldest event is that a bookmark keeps.
func examinePostgres(ctx context.Context, cfg config.Config) ([]inspect.Check, time.Duration) {
	conn, err := connect(ctx, cfg.Postgres.ConnString())
	if err != nil {
		return []inspect.Check{failedCheck("connection", err, "check postgres.dsn and the server itself")}, 0
	}
	defer closeConn(ctx, conn)
	router, err := newRouter(cfg.Outbox)
	if err != nil {
		return []inspect.Check{failedCheck("configuration", err, "")}, 0
	}
	source, err := pgsource.New(sourceConfig(cfg, router, slog.New(slog.DiscardHandler), nil))
	if err != nil {
		return []inspect.Check{failedCheck("configuration", err, "")}, 0
	}
	p := &inspect.Postgres{
		Conn: conn, Slot: cfg.Postgres.Slot, Source: source, Outbox: outboxTables(cfg),
		OwnTables: keepsTables(cfg) || cfg.Snapshot == config.SnapshotInitial, Snapshot: cfg.Snapshot == config.SnapshotInitial,
	}
	p.Saved, p.SavedErr = savedPosition(ctx, cfg)
	checks := p.Check(ctx)
	oldest := time.Duration(0)
	kept, err := bookmark.List(ctx, conn, cfg.Postgres.Slot)
	if err != nil {
		return append(checks, failedCheck("bookmarks", err, "")), 0
	}
	for _, b := range kept {
		if b.Usable && b.Since != nil {
			oldest = max(oldest, time.Since(*b.Since))
		}
	}
	return checks, oldest
}

func examineKafka(ctx context.Context, cfg config.Config, replayable time.Duration) []inspect.Check {
	kc, err := kafkaConfig(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return []inspect.Check{failedCheck("brokers", err, "")}
	}
	opts, err := kc.ClientOptions()
	if err != nil {
		return []inspect.Check{failedCheck("brokers", err, "")}
	}
	limits := inspect.Limits{MessageBytes: int(cfg.Kafka.MaxMessageBytes), Replicas: int(cfg.Kafka.ReplicationFactor)}
	if cfg.Delivery.Guarantee == config.ExactlyOnce {
		limits.TransactionTimeout = cfg.Kafka.TransactionTimeout
	}
	k, err := inspect.NewKafka(opts, inspect.Kafka{Topic: cfg.Outbox.Topic, CreateTopics: cfg.Kafka.CreateTopics, Limits: limits, Replayable: replayable})
	if err != nil {
		return []inspect.Check{failedCheck("brokers", err, "")}
	}
	defer k.Close()
	return k.Check(ctx)
}

// spillRoom is what the folder for files should have free: a backlog takes 256 MiB.
const spillRoom = 1 << 30

// examineHere looks at this machine, and at the instance if there is one.
func examineHere(ctx context.Context, cfg config.Config) []inspect.Check {
	dir := cfg.Delivery.SpillDir
	if dir == "" {
		dir = os.TempDir()
	}
	spill := inspect.Check{Name: "spill folder", Verdict: inspect.OK}
	switch free, err := freeBytes(dir); {
	case err != nil:
		spill = failedCheck(spill.Name, err, "set delivery.spill_dir to a folder that can be written to")
	case free < spillRoom:
		spill.Verdict, spill.Mend = inspect.Warn, "make room, or set delivery.spill_dir: a backlog takes 256 MiB there, and a transaction that is streamed before it commits as much as it is large"
		spill.Text = fmt.Sprintf("%s has %s free", dir, humanize.IBytes(free))
	default:
		spill.Text = fmt.Sprintf("%s has %s free", dir, humanize.IBytes(free))
	}
	checks := []inspect.Check{spill}
	if cfg.Admin.Listen == "" {
		return checks
	}
	instance := inspect.Check{Name: "instance", Verdict: inspect.OK}
	report, err := inspect.Ask(ctx, cfg.Admin.Listen)
	switch {
	case err != nil:
		instance.Verdict, instance.Text, instance.Mend = inspect.Warn, "not reached at admin.listen: "+cdc.OneLine(err), "start walpost run, or name its address with --admin.listen"
	case !report.Ready:
		instance.Verdict, instance.Text, instance.Mend = inspect.Fail, "not ready: "+report.Reason, "see its log"
	case report.PartitionsAdded > 0:
		instance.Verdict, instance.Text = inspect.Warn, fmt.Sprintf("%.0f partitions were added to topics since %s, so that their keys have moved", report.PartitionsAdded, report.Started.UTC().Format(time.DateTime))
		instance.Mend = "look whether consumers have put an older event of a key over a newer one; its log names the topics. walpost replay publishes them again in order"
	default:
		instance.Text = fmt.Sprintf("%s, version %s", report.Reason, report.Version)
	}
	return append(checks, instance)
}

// freeBytes sees that a file can be made in the folder, and how much fits there.
func freeBytes(dir string) (uint64, error) {
	f, err := os.CreateTemp(dir, "walpost-*.doctor")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(f.Name()) }() // empty
	if err := f.Close(); err != nil {
		return 0, err
	}
	return inspect.DiskFree(dir)
}
