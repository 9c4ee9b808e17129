package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/replay"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/sink/kafka"
)

// replayTable publishes rows of the outbox tables again.
func (c *cli) replayTable(ctx context.Context, cfg config.Config, conn *pgx.Conn, opts replayOptions) error {
	if cfg.Postgres.Shard.Count > 0 {
		return cdc.Refuse("replay from WAL with --from, for each shard", "the rows of a table are not told apart by shards")
	}
	plan, err := replay.ResolveTable(cfg.Postgres.Slot, opts.from, opts.to, opts.Options)
	if err != nil {
		return err
	}
	router, err := newRouter(cfg.Outbox)
	if err != nil {
		return err
	}
	published, err := replay.Published(ctx, conn, plan.Slot)
	if err != nil {
		return err
	}
	waiting, err := readWaiting(ctx, cfg, replay.NewWaiting(0))
	if err != nil {
		return err
	}
	route := replay.NewRoute(ctx, plan, waiting, router.Route)
	read := func(do func(*cdc.Event) error) error {
		for _, t := range cfg.Outbox.Tables {
			table := replay.Table{Name: pgx.Identifier{t.Schema, t.Name}, OrderBy: opts.orderBy}
			if err := table.Read(ctx, conn, cfg.Postgres.Publication, plan, published, do); err != nil {
				return err
			}
		}
		return nil
	}
	_, _ = fmt.Fprintf(c.stderr, "replay %s: from the table, ordered by %s, which is the order of commits only nearly\n", plan.ID, opts.orderBy)
	begun := time.Now()
	if opts.dry {
		err = read(func(ev *cdc.Event) error {
			rec, err := route.Route(ev)
			if rec != nil {
				rec.Free()
			}
			if errors.Is(err, cdc.ErrSkip) {
				return nil
			}
			return err
		})
	} else {
		err = c.publishRows(ctx, cfg, route, read)
	}
	if err != nil {
		if n := route.Counts().Published; n > 0 && !opts.dry {
			c.complain(fmt.Sprintf("%d events were handed over before; a replay from the table cannot be resumed", n), "")
		}
		return err
	}
	res := replayResult{Plan: plan, Dry: opts.dry, Finished: true, Seconds: time.Since(begun).Seconds(), Counts: route.Counts()}
	return c.print(res, res.print)
}

func (c *cli) publishRows(ctx context.Context, cfg config.Config, route *replay.Route, read func(func(*cdc.Event) error) error) error {
	log := newLogger(cfg.Log, c.stderr)
	kc, err := kafkaConfig(cfg, log, nil)
	if err != nil {
		return err
	}
	sink, err := kafka.NewReopening(kc)
	if err != nil {
		return err
	}
	defer sink.Close()
	written, err := withSchemas(cfg, sink, log)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	wctx, unwatch := context.WithCancel(gctx)
	g.Go(func() error { return sink.Watch(wctx) })
	g.Go(func() error {
		defer unwatch()
		return replay.Publish(gctx, replay.NewSink(written, route), route, read)
	})
	return g.Wait()
}
