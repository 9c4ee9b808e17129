package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/history"
	"github.com/walpost/walpost/internal/snapshot"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

func (c *cli) checkpointSet() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "set LSN",
		Short: "Save a position for the next start",
		Long: `Save a position for the next start of walpost run, which must not be running. It is
needed when the database has become another one, as by a major upgrade, so that the
saved position means nothing any more: set it to where the slot is confirmed.

Refused without --force is a position from which events would be skipped, and one
before a saved position that lies beyond the end of WAL, as on a server that has lost
WAL. One below what the slot has confirmed is always refused, since a slot never goes
back (see walpost replay), and one beyond the end of WAL.

With --force, or where there was no checkpoint, it also removes what is noted in Kafka
of how far the database is published: a server that takes the place of another, and is
behind that, is then not refused as a copy.`,
		Example: "  walpost checkpoint set 16/B374D848",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &usageError{fmt.Errorf("%s: want one LSN, got %d", cmd.CommandPath(), len(args))}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also skip events, or go back where the server has lost WAL or takes another's place")
	var lsn cdc.LSN
	judge := func(cfg config.Config, args []string) (err error) {
		lsn, err = cdc.ParseLSN(args[0])
		if force && cfg.Checkpoint.Store == config.StoreSlot {
			return err // the slot's own position is taken, to remove what is noted
		}
		return errors.Join(err, takesPosition(cfg.Checkpoint.Store))
	}
	return c.onServer(cmd, judge, func(ctx context.Context, cfg config.Config, conn *pgx.Conn, _ []string) error {
		pos, err := setCheckpoint(ctx, cfg, conn, lsn, force)
		if err != nil {
			return err
		}
		return c.print(pos, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "checkpoint of slot %s at %s\n", cfg.Postgres.Slot, pos.LSN)
			return err
		})
	})
}

// takesPosition refuses stores whose position nobody may set by hand.
func takesPosition(store config.Store) error {
	if store == config.StoreKafka || store == config.StoreSlot {
		return cdc.Refuse("with exactly-once the position is in a Kafka transaction with the events: take another slot; with checkpoint.store slot the slot's own position is all there is",
			"checkpoint.store %s takes no position by hand", store)
	}
	return nil
}

func setCheckpoint(ctx context.Context, cfg config.Config, conn *pgx.Conn, lsn cdc.LSN, force bool) (pos cdc.Position, err error) {
	slot, pos, err := settableSlot(ctx, cfg, conn, lsn, force)
	if err != nil {
		return pos, err
	}
	st, err := newStore(cfg)
	if err != nil {
		return pos, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	saved, err := st.Load(ctx)
	if err != nil {
		return pos, err
	}
	if err := judgeCheckpoint(saved, pos, slot, lsn, force); err != nil {
		return pos, err
	}
	if _, err := st.Acquire(ctx); err != nil {
		return pos, err
	}
	if lost(saved, pos) {
		// No store goes back within one history, and the one before has none.
		if err := st.Save(ctx, cdc.Position{}); err != nil {
			return pos, err
		}
	}
	pos.LSN = lsn
	if err := st.Save(ctx, pos); err != nil {
		return pos, err
	}
	// What the log says of published rows holds no more where events were skipped, or in
	// another cluster: a purge must not go by it.
	if err := history.Forget(ctx, conn, cfg.Postgres.Slot); err != nil && !errors.Is(err, history.ErrMissing) {
		return pos, err
	}
	if force || saved.Epoch == 0 { // the first checkpoint, or the one before was removed
		err = freeMark(ctx, cfg, pos)
	}
	return pos, err
}

// settableSlot returns the slot, which nobody reads, and the server with its end of WAL. A
// slot whose own position is all there is can be set to that only, by force: which removes
// what is noted in Kafka.
func settableSlot(ctx context.Context, cfg config.Config, conn *pgx.Conn, lsn cdc.LSN, force bool) (*pgsource.SlotState, cdc.Position, error) {
	var none cdc.Position
	store := cfg.Checkpoint.Store
	inSlot := store == config.StoreSlot
	if err := takesPosition(store); err != nil && (!inSlot || !force) {
		return nil, none, err
	}
	name := cfg.Postgres.Slot
	slot, err := pgsource.ReadSlot(ctx, conn, name)
	switch {
	case err != nil:
		return nil, none, err
	case slot == nil:
		return nil, none, pgsource.NoSlot(ctx, conn, name, cdc.Refuse("run walpost init", "slot %q does not exist", name))
	case slot.Active:
		return nil, none, cdc.Refuse("stop walpost run first", "slot %q is being read by the server process %d", name, slot.ActivePID)
	}
	if err := pgsource.CheckSlot(name, slot); err != nil {
		return nil, none, err
	}
	if inSlot && lsn != slot.ConfirmedFlush {
		return nil, none, takesPosition(store)
	}
	server, err := pgsource.Identify(ctx, conn)
	return slot, server, err
}

// lost reports whether the saved position lies beyond the end of WAL of the same cluster.
func lost(saved cdc.Checkpoint, server cdc.Position) bool {
	return saved.SystemID == server.SystemID && saved.Timeline == server.Timeline && saved.LSN > server.LSN
}

// judgeCheckpoint refuses a position from which nothing can be streamed, and without force one
// from which events would be skipped.
func judgeCheckpoint(saved cdc.Checkpoint, server cdc.Position, slot *pgsource.SlotState, lsn cdc.LSN, force bool) error {
	same := saved.SystemID == server.SystemID && saved.Timeline == server.Timeline && !lost(saved, server)
	start := slot.ConfirmedFlush // of a stream that begins at what is saved
	if same {
		start = max(start, saved.LSN)
	}
	switch {
	case lsn > server.LSN:
		return cdc.Refuse("give one up to there", "%s is beyond the end of WAL, %s", lsn, server.LSN)
	case lsn < slot.ConfirmedFlush:
		return cdc.Refuse("a slot never goes back: walpost replay publishes again what a bookmark keeps", "the slot is confirmed up to %s, beyond %s", slot.ConfirmedFlush, lsn)
	case lost(saved, server) && !force:
		return cdc.Refuse("find out which, then give --force", "the server has lost WAL, or was restored: the saved position %s is beyond the end of WAL, %s", saved.LSN, server.LSN)
	case same && lsn < saved.LSN:
		return cdc.Refuse("walpost replay publishes again what a bookmark keeps", "everything up to %s is published already", saved.LSN)
	case same && snapshot.IsPosition(saved.LSN) && !force:
		return cdc.Refuse("let walpost run publish it, or give --force to leave out what is left of it", "the snapshot of the slot is published in part: %s", snapshot.Text(saved.LSN))
	case lsn > start && !force:
		return cdc.Refuse("give that, or --force to skip them", "events that were committed from %s to %s would never be published", start, lsn)
	}
	return nil
}
