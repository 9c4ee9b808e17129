package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/bench"
	"github.com/walpost/walpost/internal/config"
)

const benchLong = `Load a table and measure the whole path on your own servers: from the commit to a
consumer of committed records.

Your outbox, slot, publication, checkpoint and topics are left alone. The bench makes a
schema with a table, a publication, a slot and a topic of its own, with names that begin
with ` + bench.Prefix + `, and removes them at the end, also when it is interrupted. What
a bench has left that was killed, --clean removes.

  load     writes --events events, with the slot already there
  backlog  starts a process of walpost run, with your configuration, and measures it
           until a consumer has the last event
  steady   starts another one, writes --rate events a second for --duration, whether
           earlier ones have arrived or not, and measures from when an event was due to
           when the consumer has it; the first fifth of the time does not count

Of your configuration it takes servers, security, speed and guarantee. What turns rows into
records is left out, and so are the schema registry, messages, snapshot, replay, purge,
spans and the admin server: the consumer must find what was written.

The position is kept in the slot, or with exactly-once in a topic that is removed too.

Needs REPLICATION and CREATE on the database, wal_level = logical and a free slot or two;
in Kafka CREATE, DELETE, DESCRIBE, READ and WRITE on topics with the prefix ` + bench.Prefix + `,
and with exactly-once WRITE on transactional ids with the prefix walpost-.

It ends by itself: a server that does not answer is given 15s, the making of the slot 30s,
anything else 60s without progress, the stop of a process 30s, the removal 60s. Ends with
0 only if every event has arrived once and as it was written.`

func (c *cli) benchCommand() *cobra.Command {
	var (
		measured bench.Config
		clean    bool
	)
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Load a table and measure the whole path on your own servers",
		Long:  benchLong,
		Example: `  walpost bench --config walpost.yaml
  walpost bench --config walpost.yaml --events 1000000 --batch 100 --rate 5000
  walpost bench --config walpost.yaml --clean`,
		Args: noArgs,
	}
	config.AddFlags(cmd.Flags())
	cmd.Flags().IntVar(&measured.Events, "events", 100_000, "how many events are written before walpost starts")
	cmd.Flags().IntVar(&measured.Bytes, "bytes", 300, "bytes of each event's payload")
	cmd.Flags().IntVar(&measured.Batch, "batch", 1, "events in a transaction")
	cmd.Flags().IntVar(&measured.Rate, "rate", 1000, "events a second of the steady phase; 0 leaves it out")
	cmd.Flags().DurationVar(&measured.Duration, "duration", 10*time.Second, "how long the steady phase writes")
	cmd.Flags().BoolVar(&clean, "clean", false, "remove what benches have left that were killed, and measure nothing")
	exclude(cmd, "clean", "events", "bytes", "batch", "rate", "duration")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		if err := measured.Validate(); err != nil {
			return &usageError{err}
		}
		full, err := c.benchConfig(cfg, measured)
		if err != nil {
			return err
		}
		if clean {
			return c.benchClean(cmd.Context(), full)
		}
		return c.bench(cmd.Context(), cfg, full)
	}
	return cmd
}

// bench measures and prints.
func (c *cli) bench(ctx context.Context, cfg config.Config, full bench.Config) error {
	sum, err := bench.Run(ctx, full)
	sum.Walpost, sum.Guarantee, sum.Compression = readBuildInfo().Version, string(cfg.Delivery.Guarantee), string(cfg.Kafka.Compression)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if sum.Backlog.Events > 0 {
		err = errors.Join(c.print(sum, func(w io.Writer) error { sum.Print(w); return nil }), err)
		if err == nil && !sum.OK() {
			err = errors.New("bench: the figures do not add up")
		}
	}
	return err
}

func (c *cli) benchClean(ctx context.Context, full bench.Config) error {
	removed, err := bench.Clean(ctx, full)
	return errors.Join(c.print(removed, func(w io.Writer) error {
		for _, n := range removed {
			_, _ = fmt.Fprintf(w, "removed  %s\n", n)
		}
		if len(removed) == 0 && err == nil {
			_, _ = fmt.Fprintln(w, "nothing was left")
		}
		return nil
	}), err)
}

// benchConfig adds to what is measured how the servers are reached.
func (c *cli) benchConfig(cfg config.Config, full bench.Config) (bench.Config, error) {
	k, err := kafkaConfig(cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return full, err
	}
	if full.Kafka, err = k.ClientOptions(); err != nil {
		return full, err
	}
	full.Partitions, full.ReplicationFactor = cfg.Kafka.Partitions, cfg.Kafka.ReplicationFactor
	full.ExactlyOnce = cfg.Delivery.Guarantee == config.ExactlyOnce
	full.Connect = func(ctx context.Context) (*pgx.Conn, error) { return connect(ctx, cfg.Postgres.ConnString()) }
	full.Walpost = func(ctx context.Context, n bench.Names) (*exec.Cmd, error) {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find the program: %w", err)
		}
		cmd := exec.CommandContext(ctx, self, "run")
		cmd.Env = benchEnviron(cfg, c.environ, n)
		return cmd, nil
	}
	full.Hint, full.Out = c.hint, c.stderr
	return full, nil
}

// benchDefaults begin the keys of the settings that the bench's process has at their
// defaults: what is published beside the rows, and how those become records, which the
// consumer must find as they were written; and what would be kept, deleted or shown.
var benchDefaults = []string{"outbox.", "messages.", "snapshot", "replay.", "purge.", "kafka.schema_registry.", "admin."}

// benchEnviron is the environment of a process that streams between what has these
// names, and else is configured as we are: servers, security, speed and guarantee. Secrets
// are in nobody's sight there, as they would be in its arguments.
func benchEnviron(cfg config.Config, environ []string, n bench.Names) []string {
	instead := config.Defaults(benchDefaults...)
	maps.Copy(instead, map[string]string{
		"postgres.slot": n.Slot(), "postgres.publication": n.Publication(), "postgres.shard": "",
		"postgres.create_slot": "false", "postgres.wait_for_slot": "false",
		"outbox.table": n.Schema() + "." + n.Table(), "outbox.topic": n.Topic(),
		"kafka.create_topics": "false",
		"delivery.poison":     string(config.PoisonStop), "delivery.dead_letter_topic": "",
		"checkpoint.store": string(config.StoreSlot), "checkpoint.file": "", "checkpoint.topic": n.Progress(),
		"admin.listen": "", "log.level": "warn", "log.format": string(config.LogText),
	})
	if cfg.Delivery.Guarantee == config.ExactlyOnce {
		instead["checkpoint.store"] = string(config.StoreKafka)
	}
	return append(unhidden(environ), cfg.Environ(instead)...)
}

// benchHidden begin the variables that the bench's process does not get: the settings, which
// it gets anew; where spans go, which nobody wants of made-up events; and the service manager,
// which would take it for the service.
var benchHidden = []string{"WALPOST_", "OTEL_", "NOTIFY_SOCKET=", "WATCHDOG_"}

// unhidden returns what else there is.
func unhidden(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		return slices.ContainsFunc(benchHidden, func(prefix string) bool { return strings.HasPrefix(v, prefix) })
	})
}
