package checkpoint

import (
	"context"
	"fmt"

	"github.com/walpost/walpost/pkg/cdc"
)

// Witnessed is a store outside of the database, with a witness in it: the slot's
// row in the table walpost.checkpoint, which a [Postgres] store would use. The row
// tells a first start from a checkpoint that was lost, or that is in another Kafka
// cluster: without it the slot's own position would be taken, and events be
// repeated, or be missing from the new cluster.
//
// If the row holds a position, a Postgres store has published the slot until now,
// and Witnessed goes on from there. If it does not, Witnessed has made it, and a
// missing checkpoint is refused.
//
// What it cannot know: that a slot without a row was used, as with the stores that
// leave none; and what a restored or failed-over database has forgotten.
type Witnessed struct {
	store   cdc.Store
	witness *Postgres
}

// NewWitnessed returns a store that keeps the checkpoint in store.
func NewWitnessed(store cdc.Store, witness *Postgres) *Witnessed {
	return &Witnessed{store, witness}
}

// Load implements [cdc.Store]. It refuses a checkpoint that is missing though there
// was one.
func (w *Witnessed) Load(ctx context.Context) (cdc.Checkpoint, error) {
	cp, err := w.store.Load(ctx)
	if err != nil || !cp.IsZero() {
		return cp, err
	}
	was, err := w.witness.Load(ctx)
	if err != nil {
		return cdc.Checkpoint{}, err
	}
	if cp.Epoch == 0 && was.Epoch > 0 && was.IsZero() {
		return cdc.Checkpoint{}, cdc.Refuse(
			fmt.Sprintf("check kafka.brokers and checkpoint.topic, or restore that topic; if what the consumers have seen does not matter, DELETE FROM walpost.checkpoint WHERE slot = '%s' to start from the slot's own position", w.witness.slot),
			"slot %q has been published exactly once, and its checkpoint is not in Kafka", w.witness.slot)
	}
	cp.Position = was.Position
	return cp, nil
}

// Acquire implements [cdc.Store]. Before the first position is saved it leaves the
// row in the database.
func (w *Witnessed) Acquire(ctx context.Context) (cdc.Checkpoint, error) {
	cp, err := w.store.Acquire(ctx)
	if err != nil || !cp.IsZero() {
		return cp, err
	}
	was, err := w.witness.Acquire(ctx)
	if err != nil {
		return cdc.Checkpoint{}, err
	}
	cp.Position = was.Position
	return cp, nil
}

// Save implements [cdc.Store].
func (w *Witnessed) Save(ctx context.Context, pos cdc.Position) error { return w.store.Save(ctx, pos) }
