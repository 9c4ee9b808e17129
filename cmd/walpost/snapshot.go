package main

import (
	"context"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/progress"
	"github.com/walpost/walpost/internal/snapshot"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
	"github.com/walpost/walpost/pkg/outbox"
)

// newSources makes the source and what comes before it.
func (s *service) newSources(router *outbox.Router) (err error) {
	cfg := s.cfg
	sc := snapshot.Config{
		Slot: cfg.Postgres.Slot, Publication: cfg.Postgres.Publication, OrderBy: cfg.Outbox.OrderBy,
		Initial: cfg.Snapshot == config.SnapshotInitial, Logger: s.log, Progress: showProgress(os.Stderr),
		// Not as the commands connect: for these a server that does not answer is the end.
		Connect: func(ctx context.Context) (*pgx.Conn, error) {
			conn, err := connConfig(cfg.Postgres.ConnString())
			if err != nil {
				return nil, err
			}
			return pgx.ConnectConfig(ctx, conn)
		},
	}
	for _, t := range cfg.Outbox.Tables {
		sc.Tables = append(sc.Tables, pgx.Identifier{t.Schema, t.Name})
	}
	s.snapshot = snapshot.New(sc)
	pc := sourceConfig(cfg, router, s.log, s.registry)
	if sc.Initial {
		pc.Exported = s.snapshot.Exported
	}
	if s.source, err = pgsource.New(pc); err == nil {
		s.snapshot.Before(s.source)
	}
	return err
}

// showProgress shows a bar on a terminal.
func showProgress(w *os.File) func(done, total int) {
	var bar *progress.Bar
	return func(done, total int) {
		if bar == nil {
			b := progress.New(w, "snapshot, chunks", int64(total))
			bar = &b
		}
		bar.Set(int64(done))
		if done == total {
			bar.Done()
		}
	}
}

// snapshotLeft is the metric of the snapshot.
func (s *service) snapshotLeft() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "walpost_snapshot_chunks_left", Help: "Chunks of the initial snapshot that are still to be handed to Kafka's producer; 0 when there is none.",
	}, func() float64 {
		p := s.snapshot.Progress()
		if p == nil {
			return 0
		}
		return float64(p.Of - p.Chunks)
	})
}
