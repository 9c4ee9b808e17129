package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

const (
	// removeTimeout bounds the removal of everything, and dropTimeout of one object.
	removeTimeout = 60 * time.Second
	dropTimeout   = 15 * time.Second
)

// removeAll removes what was made. Who has interrupted the bench is told so.
func (b *bench) removeAll(ctx context.Context) error {
	interrupted := ctx.Err() != nil
	if interrupted {
		b.say("interrupted: removing what was made")
	}
	err := b.remove(ctx, b.made)
	if interrupted && err == nil {
		var names []string
		for _, o := range b.made {
			names = append(names, o.kind+" "+o.name)
		}
		b.say("removed %s", strings.Join(names, ", "))
	}
	return err
}

// remove drops objects, the last one first, whether ctx is done or not. The error names
// each that may be left.
func (b *bench) remove(ctx context.Context, made []object) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	var errs []error
	for _, o := range slices.Backward(made) {
		octx, done := context.WithTimeout(ctx, dropTimeout)
		err := o.drop(octx)
		done()
		if err != nil {
			errs = append(errs, cdc.Refuse("or run walpost bench --clean with the same configuration later",
				"%s %s may be left: %s; remove it with %s", o.kind, o.name, cdc.OneLine(err), o.undo))
		}
	}
	return errors.Join(errs...)
}

// Clean removes what benches of this database have left that were killed, and returns
// their names. One that runs is left alone.
func Clean(ctx context.Context, cfg Config) ([]Names, error) {
	b := &bench{cfg: cfg.withDefaults()}
	b.cfg.ExactlyOnce = true // it may have been
	var err error
	if b.kafka, err = cfg.dial(ctx); err != nil {
		return nil, err
	}
	defer b.close()
	if b.lock, err = cfg.Connect(ctx); err != nil {
		return nil, err
	}
	f, err := familyOf(ctx, b.lock)
	if err != nil {
		return nil, err
	}
	left, err := abandoned(ctx, b.lock, b.kafka, f)
	if err != nil {
		return nil, err
	}
	removed := []Names{}
	var errs []error
	for _, n := range left {
		if err := b.remove(ctx, b.objects(n)); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", n, err))
			continue
		}
		removed = append(removed, n)
	}
	return removed, errors.Join(errs...)
}
