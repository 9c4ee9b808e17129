package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
	"github.com/walpost/walpost/pkg/sink/kafka"
)

// checkInterval is the wait before the dead-letter topic is asked for again at a start.
// While no broker answers, the reader itself tries again as often as the sink does.
const checkInterval = 250 * time.Millisecond

// check refuses to stream without dead letters while keys are parked from when there
// were some: later events of theirs would pass those that wait. It waits for as long as
// Kafka is away, with the slot and the checkpoint owned: all that a start has done is
// done once, and what is left when Kafka is back is to stream.
func (s *service) check() func(context.Context) error {
	if s.cfg.Delivery.Poison == config.PoisonDeadLetter {
		return nil
	}
	return func(ctx context.Context) error {
		var repeats circuit.Repeats
		for {
			err := s.checkParked(ctx)
			var refused *cdc.RefusedError
			if err == nil || errors.As(err, &refused) {
				return err
			}
			if ctx.Err() == nil {
				repeats.Log(s.log, slog.LevelWarn, "read", "whether keys are parked is not known yet, trying again", "topic", s.cfg.DeadLetters(), "err", err)
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(checkInterval):
			}
		}
	}
}

// checkParked returns a [cdc.RefusedError] if keys are parked, and any other error if
// that could not be read.
func (s *service) checkParked(ctx context.Context) error {
	lots, err := readLots(ctx, s.cfg, nil)
	switch {
	case errors.Is(err, kafka.ErrNoTopic):
		return nil
	case errors.Is(err, kafka.ErrNotAllowed):
		s.log.Debug("whether keys are parked in the dead-letter topic is not known", "topic", s.cfg.DeadLetters(), "error", err)
		return nil
	case err != nil:
		return err
	case lots.ParkedKeys() > 0:
		return cdc.Refuse("set delivery.poison to dead-letter, retry or discard what walpost dlq list prints, and then set it to stop; or set delivery.dead_letter_topic to another, which gives those events up",
			"events of %d keys wait in dead-letter topic %s, and with delivery.poison stop later ones would pass them", lots.ParkedKeys(), s.cfg.DeadLetters())
	}
	return nil
}
