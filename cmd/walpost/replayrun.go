package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/progress"
	"github.com/walpost/walpost/internal/replay"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
	"github.com/walpost/walpost/pkg/checkpoint"
	"github.com/walpost/walpost/pkg/sink/kafka"
)

// replayRun is a replay and what shows how far it is.
type replayRun struct {
	plan     replay.Plan
	log      *slog.Logger
	source   *pgsource.Replay
	route    *replay.Route
	bar      progress.Bar
	reached  cdc.LSN
	finished bool
}

func (c *cli) newReplay(ctx context.Context, cfg config.Config, conn *pgx.Conn, plan replay.Plan) (*replayRun, error) {
	router, err := newRouter(cfg.Outbox)
	if err != nil {
		return nil, err
	}
	r := &replayRun{plan: plan, log: newLogger(cfg.Log, c.stderr)}
	sc := sourceConfig(cfg, router, r.log, nil)
	sc.Slot = plan.Bookmark
	if r.source, err = pgsource.NewReplay(pgsource.ReplayConfig{Config: sc, From: plan.From, To: plan.To}); err != nil {
		return nil, err
	}
	waiting, err := waitingInWAL(ctx, cfg, conn)
	if err != nil {
		return nil, err
	}
	r.route = replay.NewRoute(ctx, plan, waiting, router.Route)
	r.bar = progress.NewBytes(c.stderr, "replay", int64(plan.To-plan.From))
	return r, nil
}

// show shows how far the replay is, until ctx is done.
func (r *replayRun) show(ctx context.Context, at func() cdc.LSN) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if lsn := at(); lsn > r.plan.From {
				r.bar.Set(int64(min(lsn, r.plan.To) - r.plan.From))
			}
		}
	}
}

func (r *replayRun) dry(ctx context.Context) error {
	d := &replay.Dry{Route: r.route}
	sctx, stop := context.WithCancel(ctx)
	defer stop()
	go r.show(sctx, d.At)
	err := d.Run(ctx, r.source, r.source.Done())
	r.reached, r.finished = d.At(), err == nil
	return err
}

// run publishes, until all is acknowledged or ctx is done. A row that a broker refuses ends the
// sink and what is behind it: the replay goes on from what was saved, without that row.
func (r *replayRun) run(ctx context.Context, cfg config.Config, conn *pgx.Conn) error {
	kc, err := kafkaConfig(cfg, r.log, nil)
	if err != nil {
		return err
	}
	sink, err := kafka.NewReopening(kc)
	if err != nil {
		return err
	}
	defer sink.Close()
	store, err := checkpoint.NewPostgres(checkpoint.PostgresConfig{DSN: cfg.Postgres.ConnString(), Slot: r.plan.Checkpoint()})
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // all is saved
	for {
		before := r.route.Refused()
		err := r.publish(ctx, cfg, sink, store)
		refused := r.route.Refused()
		var final *cdc.RefusedError
		switch limit := cfg.Delivery.MaxDeadLetters; {
		case err != nil && (refused == before || ctx.Err() != nil || errors.As(err, &final)):
			return err
		case err != nil && limit > 0 && refused > limit:
			return cdc.Refuse("mend what makes the brokers refuse them, as the topic's limits, or raise delivery.max_dead_letters", "brokers have refused %d rows: %w", refused, err)
		case err == nil && r.finished:
			return r.plan.Finish(context.WithoutCancel(ctx), conn)
		case err == nil:
			return nil
		}
		r.log.Warn("going on without rows that a broker refused", "rows", refused-before, "err", cdc.OneLine(err))
		if err := sink.Reopen(ctx); err != nil {
			return err
		}
	}
}

// publish is run up to the first row that a broker refuses.
func (r *replayRun) publish(ctx context.Context, cfg config.Config, sink *kafka.Reopening, store *checkpoint.Postgres) error {
	written, err := withSchemas(cfg, sink, r.log)
	if err != nil {
		return err
	}
	pipeline := cdc.NewPipeline(cdc.Config{
		Source: r.source, Sink: replay.NewSink(written, r.route), Store: store, Route: r.route.Route, Logger: r.log,
		DrainTimeout: cfg.Delivery.DrainTimeout, MaxUnconfirmedEvents: cfg.Delivery.MaxUnconfirmedEvents,
		RetryInitial: cfg.Delivery.Retry.Initial, RetryMax: cfg.Delivery.Retry.Max,
	})
	pctx, stop := context.WithCancel(ctx)
	defer stop()
	g, gctx := errgroup.WithContext(context.WithoutCancel(ctx))
	wctx, unwatch := context.WithCancel(gctx)
	defer unwatch()
	g.Go(func() error { return sink.Watch(wctx) })
	g.Go(func() error {
		r.show(wctx, func() cdc.LSN { return pipeline.Status().Acknowledged })
		return nil
	})
	g.Go(func() error {
		defer stop()
		select {
		case <-wctx.Done():
		case <-r.source.Done():
			awaitAcks(wctx, pipeline, r.plan.To) // or until the pipeline ends
		}
		return nil
	})
	g.Go(func() error {
		defer unwatch()
		return pipeline.Run(pctx)
	})
	if err := g.Wait(); err != nil {
		return err
	}
	r.reached = pipeline.Status().Checkpoint
	r.finished = r.reached >= r.plan.To
	return nil
}

// awaitAcks waits until all that was handed over is acknowledged: a stop's own wait for
// that is bounded.
func awaitAcks(ctx context.Context, p *cdc.Pipeline, to cdc.LSN) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for p.Status().Acknowledged < to {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
