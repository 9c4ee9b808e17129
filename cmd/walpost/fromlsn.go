package main

import (
	"context"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// startFrom prepares a stream from a saved position, before it begins. What the slot has
// confirmed beyond that is published again first, as by walpost replay; a position ahead of it is
// set as by walpost checkpoint set.
func (c *cli) startFrom(ctx context.Context, cfg config.Config, position string) error {
	lsn, err := cdc.ParseLSN(position)
	if err != nil {
		return &usageError{err}
	}
	conn, err := connect(ctx, cfg.Postgres.ConnString())
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	name := cfg.Postgres.Slot
	slot, err := pgsource.ReadSlot(ctx, conn, name)
	switch {
	case err != nil:
		return err
	case slot == nil:
		return pgsource.NoSlot(ctx, conn, name, cdc.Refuse("run walpost init; what was written before that only walpost replay --source table can publish",
			"slot %q does not exist, so that nothing keeps the events from %s on", name, lsn))
	case lsn < slot.ConfirmedFlush:
		return c.replay(ctx, cfg, conn, replayOptions{from: lsn.String(), source: "wal"})
	case lsn == slot.ConfirmedFlush: // or from what is saved, which is no earlier
		return nil
	}
	_, err = setCheckpoint(ctx, cfg, conn, lsn, false)
	return err
}
