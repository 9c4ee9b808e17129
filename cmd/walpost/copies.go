package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/walpost/walpost/internal/clone"
	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/inspect"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/sink/kafka"
)

// newNotes makes what marks are kept in.
func newNotes(cfg config.Config, log *slog.Logger) (*kafka.Notes, error) {
	kc, err := kafkaConfig(cfg, log, nil)
	if err != nil {
		return nil, err
	}
	return kafka.NewNotes(kc, cfg.Checkpoint.Topic)
}

// guardCopies puts the guard against a copied disk before the source and the store, unless
// the checkpoint itself is in Kafka.
func (s *service) guardCopies(source cdc.Source, st cdc.Store) (cdc.Source, cdc.Store, error) {
	if s.cfg.Delivery.Guarantee == config.ExactlyOnce {
		return source, st, nil
	}
	var err error
	if s.notes, err = newNotes(s.cfg, s.log); err != nil {
		return nil, nil, err
	}
	host, _ := os.Hostname() // a name is a help and no need
	s.guard = clone.New(clone.Config{
		Slot: s.cfg.Postgres.Slot, Topic: s.cfg.Outbox.Topic, Store: string(s.cfg.Checkpoint.Store),
		Owner: fmt.Sprintf("%s/%d", cmp.Or(host, "unknown"), os.Getpid()),
		Notes: s.notes, Logger: s.log,
	})
	return s.guard.Source(source), s.guard.Store(st), nil
}

// lastMark notes how far the database is published, for a second at the most.
func (s *service) lastMark(ctx context.Context) {
	if s.guard == nil {
		return
	}
	s.guard.Last(ctx)
	s.notes.Close()
}

// freeTimeout bounds what Kafka is asked by checkpoint set.
const freeTimeout = 10 * time.Second

// freeMark makes the way free for a start on a server that is behind what is noted in
// Kafka. The position is set already.
func freeMark(ctx context.Context, cfg config.Config, server cdc.Position) (err error) {
	notes, err := newNotes(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer notes.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, freeTimeout, errors.New("no answer for "+freeTimeout.String()))
	defer cancel()
	err = clone.Free(ctx, notes, server.SystemID, cfg.Postgres.Slot, cfg.Outbox.Topic)
	if err == nil {
		return nil
	}
	return cdc.Refuse("look after kafka.brokers, and the right to write topic "+notes.Topic()+", then run it again",
		"the position is set, but walpost run may refuse it: %w", err)
}

// examineCopies sees whether a copy of the server's disk would be noticed.
func examineCopies(ctx context.Context, cfg config.Config) []inspect.Check {
	if cfg.Delivery.Guarantee == config.ExactlyOnce {
		return nil // the checkpoint itself is in Kafka
	}
	const name = "copies of the disk"
	notes, err := newNotes(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return []inspect.Check{failedCheck(name, err, "")}
	}
	defer notes.Close()
	ctx, cancel := context.WithTimeout(ctx, freeTimeout)
	defer cancel()
	switch err := notes.Check(ctx); {
	case errors.Is(err, kafka.ErrUnusable), errors.As(err, new(*cdc.RefusedError)):
		return []inspect.Check{{
			Name: name, Verdict: inspect.Warn, Text: "one that publishes to the same brokers would not be noticed: " + cdc.OneLine(err),
			Mend: fmt.Sprintf("create topic %s with one partition and cleanup.policy=compact, or set kafka.create_topics, and allow walpost to read and write it", notes.Topic()),
		}}
	case err != nil:
		return nil // no broker answers, which has a check of its own
	}
	return []inspect.Check{{Name: name, Verdict: inspect.OK, Text: "one that publishes to the same brokers is refused once it is behind what topic " + notes.Topic() + " says, if that may be written"}}
}
