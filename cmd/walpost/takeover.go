package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/takeover"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// takeOver makes what is missing besides table and slot, finds out where the slot's
// publisher has stopped, and saves that.
func (c *cli) takeOver(ctx context.Context, cfg config.Config, opts initOptions) (err error) {
	cfg.Postgres.Slot, opts.noTable = opts.takeOver, true
	if takesPosition(cfg.Checkpoint.Store) != nil {
		return &usageError{cdc.Refuse("take it over with checkpoint.store postgres; a run with delivery.guarantee exactly-once goes on from there",
			"checkpoint.store %s takes no position by hand", cfg.Checkpoint.Store)}
	}
	steps, err := initSteps(cfg, opts)
	if err != nil {
		return &usageError{err}
	}
	conn, err := pgx.Connect(ctx, cfg.Postgres.ConnString())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	slot, server, err := idleSlot(ctx, conn, cfg.Postgres.Slot)
	if err != nil {
		return err
	}
	st, err := newStore(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	results, err := c.applyInit(ctx, cfg, steps)
	if err != nil {
		return errors.Join(c.print(results, func(w io.Writer) error { return printResults(w, results) }), err)
	}
	saved, err := st.Load(ctx)
	if err != nil {
		return err
	}
	if !saved.IsZero() {
		return cdc.Refuse("walpost run goes on from there", "slot %q has a checkpoint of walpost at %s: it was taken over already", cfg.Postgres.Slot, saved.LSN)
	}
	found, err := c.findStop(ctx, cfg, slot, server)
	if err != nil {
		return err
	}
	if _, err := st.Acquire(ctx); err != nil {
		return err
	}
	if err := st.Save(ctx, found.Position); err != nil {
		return err
	}
	if err := freeMark(ctx, cfg, found.Position); err != nil { // of an earlier time with walpost
		return err
	}
	return c.print(found, func(w io.Writer) error {
		return errors.Join(printResults(w, results), printTakeOver(w, cfg.Postgres.Slot, found))
	})
}

// idleSlot returns a slot that walpost can read and nobody does, and the server.
func idleSlot(ctx context.Context, conn *pgx.Conn, name string) (*pgsource.SlotState, cdc.Position, error) {
	slot, err := pgsource.ReadSlot(ctx, conn, name)
	switch {
	case err != nil:
		return nil, cdc.Position{}, err
	case slot == nil:
		return nil, cdc.Position{}, cdc.Refuse("SELECT slot_name FROM pg_replication_slots shows those that there are", "slot %q does not exist", name)
	case slot.Active:
		return nil, cdc.Position{}, cdc.Refuse("stop its publisher first", "slot %q is being read by the server process %d", name, slot.ActivePID)
	}
	if err := pgsource.CheckSlot(name, slot); err != nil {
		return nil, cdc.Position{}, err
	}
	server, err := pgsource.Identify(ctx, conn)
	return slot, server, err
}

// findStop finds where the slot's publisher has stopped.
func (c *cli) findStop(ctx context.Context, cfg config.Config, slot *pgsource.SlotState, server cdc.Position) (takeover.Result, error) {
	if slot.ConfirmedFlush >= server.LSN {
		server.LSN = slot.ConfirmedFlush
		return takeover.Result{Position: server}, nil
	}
	router, err := newRouter(cfg.Outbox)
	if err != nil {
		return takeover.Result{}, err
	}
	kc, err := kafkaConfig(cfg, newLogger(cfg.Log, c.stderr), nil)
	if err != nil {
		return takeover.Result{}, err
	}
	client, err := kc.ClientOptions()
	if err != nil {
		return takeover.Result{}, err
	}
	source := pgsource.ReplayConfig{Config: sourceConfig(cfg, router, slog.New(slog.DiscardHandler), nil), From: slot.ConfirmedFlush, To: server.LSN}
	return takeover.Find(ctx, takeover.Config{
		Open:  func() (takeover.Source, error) { return pgsource.NewReplay(source) },
		Route: router.Route, Client: client, From: slot.ConfirmedFlush, Server: server,
	})
}

func printTakeOver(w io.Writer, slot string, r takeover.Result) error {
	_, err := fmt.Fprintf(w, "slot %s keeps %s events, %s of them are in Kafka: walpost run goes on behind them, at %s\n",
		slot, humanize.Comma(r.Events), humanize.Comma(r.Published), r.Position.LSN)
	if r.Again > 0 && err == nil {
		_, err = fmt.Fprintf(w, "%s later events are in Kafka too, and will be repeated: the publisher did not stop in good order\n", humanize.Comma(r.Again))
	}
	return err
}
