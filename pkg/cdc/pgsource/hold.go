package pgsource

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// whileOwned calls f, and meanwhile keeps the session that owns the slot from being
// idle: f may wait for as long as an outage of the sink. It ends f if that session is
// lost.
func (st *Stream) whileOwned(ctx context.Context, f func(context.Context) error) error {
	g, gctx := errgroup.WithContext(ctx)
	fctx, done := context.WithCancel(gctx)
	g.Go(func() error {
		defer done()
		return f(fctx)
	})
	g.Go(func() error { return st.keepOwned(gctx, fctx.Done()) })
	return g.Wait()
}

// hold keeps the session that owns the slot from being idle until Run takes it over with
// release, or Close ends it. In between the pipeline takes over the checkpoint and the
// dead letters, which may take as long as an outage of the sink.
func (st *Stream) hold() {
	ctx, abandon := context.WithCancel(context.Background())
	done, held := make(chan struct{}), make(chan error, 1)
	st.lost = make(chan struct{})
	go func() {
		err := st.keepOwned(ctx, done)
		if err != nil {
			close(st.lost)
		}
		held <- err
	}()
	st.abandon = abandon
	st.release = sync.OnceValue(func() error {
		close(done)
		return <-held
	})
}

// Lost returns a channel that is closed if the session that owns the slot is lost before Run.
func (st *Stream) Lost() <-chan struct{} { return st.lost }

// keepOwned asks the session that owns the slot how that is, three times in the time
// that it may be idle, until done is closed. It returns an error if the session is lost.
// A query that is under way is waited for, unless ctx ends: that costs the session.
func (st *Stream) keepOwned(ctx context.Context, done <-chan struct{}) error {
	ticker := time.NewTicker(st.interval())
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := answered(ctx, func(ctx context.Context) error {
			slot, err := ReadSlot(ctx, st.control, st.cfg.Slot)
			if slot != nil {
				st.src.metrics.observe(slot)
			}
			return err
		})
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("session that owns the slot: %w", err)
		}
	}
}
