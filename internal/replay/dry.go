package replay

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/walpost/walpost/pkg/cdc"
)

// Dry reads a replay's events and publishes none. It implements [cdc.Handler].
type Dry struct {
	Route *Route

	ordinal int64 // of the last row in the open transaction
	at      atomic.Uint64
}

// At is how far it is. Safe to call from any goroutine.
func (d *Dry) At() cdc.LSN { return cdc.LSN(d.at.Load()) }

// Begin implements [cdc.Handler].
func (d *Dry) Begin(cdc.Transaction) error {
	d.ordinal = 0
	return nil
}

// Insert implements [cdc.Handler].
func (d *Dry) Insert(_ context.Context, ev *cdc.Event) error {
	d.ordinal++
	ev.Ordinal = d.ordinal
	rec, err := d.Route.Route(ev)
	if rec != nil {
		rec.Free()
	}
	if errors.Is(err, cdc.ErrSkip) {
		return nil
	}
	return err
}

// Commit implements [cdc.Handler].
func (d *Dry) Commit(end cdc.LSN) error {
	d.Idle(end)
	return nil
}

// Idle implements [cdc.Handler].
func (d *Dry) Idle(lsn cdc.LSN) { d.at.Store(uint64(lsn)) }

// Run reads everything of a source, from where it begins by itself.
func (d *Dry) Run(ctx context.Context, src cdc.Source, done <-chan struct{}) error {
	stream, err := src.Open(ctx, func(context.Context, cdc.Position) (cdc.Position, error) { return cdc.Position{}, nil })
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // nothing was written
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, stream.Stop)()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-done:
			cancel()
		case <-ended:
		}
	}()
	if err := stream.Run(rctx, d); err != nil {
		return err
	}
	return context.Cause(ctx)
}
