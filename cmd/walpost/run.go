package main

import (
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
)

func (c *cli) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Stream the outbox until told to stop",
		Long: `Stream the outbox until told to stop: the main job.

Creates its slot and its checkpoint table when they are missing and the role
may; never the outbox table or the publication. With snapshot: initial it first publishes
the rows that are older than the slot. On SIGTERM or SIGINT it stops
reading, waits for what is in flight, saves the checkpoint, confirms it to
Postgres and exits with 0. A second signal ends it at once.

--from-lsn begins at a saved position, once: leave it out of unit files. What the slot
has confirmed beyond that is published again first, marked as walpost replay marks it,
if a bookmark or replay.window keeps it.`,
		Example: `  walpost run --dsn postgres://walpost@db/orders --brokers kafka-1:9092,kafka-2:9092
  walpost run --config walpost.yaml
  walpost run --config walpost.yaml --from-lsn 16/B374D848`,
		Args: noArgs,
	}
	config.AddFlags(cmd.Flags())
	from := cmd.Flags().String("from-lsn", "", "position to begin at, as walpost checkpoint show prints it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		if *from != "" {
			if err := c.startFrom(cmd.Context(), cfg, *from); err != nil {
				return err
			}
		}
		log := newLogger(cfg.Log, c.stderr)
		for _, f := range cfg.Former() {
			log.Warn("a setting has a new name; the former one will go", "name", f.Name, "new_name", f.Now, "where", f.Where)
		}
		s, err := newService(cfg, log)
		if err != nil {
			return err
		}
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(gcPercent)
		}
		limitMemory(cfg.Delivery, 0)
		b := readBuildInfo()
		log.Info("walpost starts", "version", b.Version, "slot", cfg.Postgres.Slot, "publication", cfg.Postgres.Publication, "brokers", cfg.Kafka.Brokers)
		if err := s.run(cmd.Context()); err != nil {
			return err
		}
		log.Info("walpost stopped", "checkpoint_lsn", s.pipeline.Status().Checkpoint.String())
		return nil
	}
	return cmd
}

const (
	// gcPercent keeps little garbage: the live heap is small, and what is
	// allocated beside it is short-lived.
	gcPercent = 50

	// baseMemory is what the process needs beside its bounded buffers, topicMemory what it
	// needs for a topic, and maxTopicMemory where that ends: with a limit near what is
	// alive the collector would do nothing else, and fall behind at that.
	baseMemory     = 12 << 20
	topicMemory    = 16 << 10
	maxTopicMemory = 32 << 20

	// topicStep is for how many topics more the limit is raised: to do so stops the
	// process for a moment.
	topicStep = 256
)

// limitMemory tells the collector what the process should stay below with a number of
// topics, unless the environment already does. It does nothing between two steps.
func limitMemory(cfg config.Delivery, topics int) {
	if topics%topicStep != 0 || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	buffers := int64(cfg.MaxInFlightBytes) + int64(cfg.MaxTxMemory)
	debug.SetMemoryLimit(buffers + baseMemory + min(topicMemory*int64(topics), maxTopicMemory))
}
