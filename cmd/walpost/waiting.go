package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/replay"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
	"github.com/walpost/walpost/pkg/sink/kafka"
)

// waitingTimeout bounds how long a replay reads the dead-letter topic: what is parked may be
// many gigabytes.
const waitingTimeout = 10 * time.Minute

// waitingInWAL returns the events in the WAL of conn's server that are dead or parked. How far
// the replay goes must be settled: what is found to be dead later lies behind that.
func waitingInWAL(ctx context.Context, cfg config.Config, conn *pgx.Conn) (*replay.Waiting, error) {
	server, err := pgsource.Identify(ctx, conn)
	if err != nil {
		return nil, err
	}
	return readWaiting(ctx, cfg, replay.NewWaiting(server.SystemID))
}

// readWaiting adds what the dead-letter topic holds now, also from before delivery.poison was
// set to stop. It reads it twice: only its end tells which letters are settled, and those may be
// any number.
func readWaiting(ctx context.Context, cfg config.Config, w *replay.Waiting) (*replay.Waiting, error) {
	lots, err := readLetters(ctx, cfg, waitingTimeout, nil)
	switch {
	case errors.Is(err, kafka.ErrNoTopic), errors.Is(err, kafka.ErrNotAllowed) && cfg.Delivery.Poison != config.PoisonDeadLetter:
		return nil, nil
	case err != nil:
		return nil, err
	case len(lots.List()) == 0:
		return nil, nil
	}
	_, err = readLetters(ctx, cfg, waitingTimeout, func(l *cdc.Letter) {
		if lots.Holds(l) {
			w.Add(l)
		}
	})
	return w, err
}
