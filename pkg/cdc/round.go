package cdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
)

// drainedError ends a round whose stream was stopped and drained, with why it
// was stopped, unless ctx ended it, and with what the drain could not do.
type drainedError struct {
	cause  error
	fenced bool // another process owns the checkpoint: there was nothing to save
}

func (e *drainedError) Error() string { return fmt.Sprintf("drained: %v", e.cause) }

// round opens the stream once and runs it to its end, which is a drainedError
// if the pipeline was to stop.
func (p *Pipeline) round(ctx context.Context) error {
	if drained := p.failedBetween(ctx); drained != nil {
		return drained
	}
	stream, err := p.cfg.Source.Open(ctx, p.position)
	if err != nil {
		return fmt.Errorf("open stream: %w", err)
	}
	defer func() { _ = stream.Close() }() // its end was reported by Run
	if err := p.begin(ctx, stream.Start()); err != nil {
		return err
	}
	resumed := p.resumed
	p.open = stream
	p.opened = time.Now()
	p.setState(Streaming, p.broke)

	// The stream outlives ctx: supervise drains it first.
	g, gctx := errgroup.WithContext(context.WithoutCancel(ctx))
	saving, stopSaving := context.WithCancel(gctx)
	defer stopSaving()
	var drained *drainedError
	var streamed error
	g.Go(func() error {
		streamed = p.stream(gctx, stream)
		return streamed
	})
	g.Go(func() error {
		if p.cfg.Transactional {
			return p.commitAll(saving, stream)
		}
		return p.checkpoint(saving, stream)
	})
	g.Go(func() error { return p.attend(saving, stream) })
	g.Go(func() error { return p.prove(saving, stream.Start().LSN, resumed) })
	g.Go(func() error {
		if drained = p.supervise(ctx, gctx, stream, stopSaving); drained != nil {
			return drained
		}
		return nil
	})
	if err := g.Wait(); drained == nil {
		return err
	}
	if !drained.fenced {
		// A stop is clean only if the last position was confirmed as well: with some
		// stores that alone saves it.
		drained.cause = errors.Join(drained.cause, streamed)
	}
	return drained
}

// position says where the stream must start: where this pipeline stands, if
// nobody has owned the checkpoint or moved it on since and the server's history
// is the same; else where the checkpoint stands.
func (p *Pipeline) position(ctx context.Context, server Position) (Position, error) {
	lctx, cancel := context.WithTimeout(ctx, acquireTimeout)
	cp, err := p.cfg.Store.Load(lctx)
	cancel()
	if err != nil {
		return Position{}, fmt.Errorf("load checkpoint: %w", err)
	}
	now, received := session{cp.Epoch, server.SystemID, server.Timeline}, LSN(p.received.Load())
	p.letters.opened = server
	if p.acks != nil && p.session == now && cp.LSN <= received && !p.differs && !p.letters.lost && p.txn.spoilt.Load() == nil {
		return Position{SystemID: server.SystemID, Timeline: server.Timeline, LSN: received}, nil
	}
	if p.acks != nil {
		why := "another process or another server has taken over"
		switch {
		case p.differs:
			why = "the cut transaction came again with other rows"
		case p.retracts():
			why = "a row was refused after it was handed over"
		case p.letters.lost:
			why = "another process writes dead letters, or the topic is another"
		}
		if p.txn.spoilt.Load() != nil {
			why = "the open Kafka transaction is aborted"
		}
		p.repeats.Log(p.cfg.Logger, slog.LevelWarn, why, "starting from the checkpoint: "+why, "checkpoint_lsn", cp.LSN.String())
		// What is in flight must not be mixed with what comes again. In a
		// transaction it is Acquire that ends it.
		if !p.cfg.Transactional {
			if err := p.cfg.Sink.Flush(ctx); err != nil {
				return Position{}, fmt.Errorf("flush sink: %w", err)
			}
		}
	}
	p.setTracker(nil)
	p.session, p.loaded, p.letters.lost = now, cp.Position, false
	return cp.Position, nil
}

// begin takes the checkpoint over, unless the pipeline goes on from its memory.
func (p *Pipeline) begin(ctx context.Context, start Position) error {
	if p.acks != nil {
		p.ordinal, p.resumed = 0, p.tx != nil
		return p.claim(ctx, false)
	}
	if err := p.acquire(ctx, start); err != nil {
		return err
	}
	if err := p.check(ctx); err != nil {
		return err
	}
	if err := p.claim(ctx, true); err != nil {
		return err
	}
	p.setTracker(p.newTracker(start.LSN))
	p.reopen(start)
	return nil
}

// check asks whether the stream may begin. Once that has taken a while, the status says so.
func (p *Pipeline) check(ctx context.Context) error {
	if p.cfg.Check == nil {
		return nil
	}
	defer time.AfterFunc(slowClaim, func() { p.explain(errors.New("waiting for what is checked before a start")) }).Stop()
	return p.cfg.Check(ctx)
}

// acquire takes the checkpoint over, for a stream that begins at start.
func (p *Pipeline) acquire(ctx context.Context, start Position) error {
	ctx, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	cp, err := p.cfg.Store.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("acquire checkpoint: %w", err)
	}
	if p.cfg.Transactional {
		if err := p.beginTransactional(cp.Position, start); err != nil {
			return err
		}
	}
	p.session.epoch = cp.Epoch
	p.saved = cp.Position
	p.received.Store(uint64(start.LSN))
	if cp.Position.IsZero() {
		// From now on a slot that vanished can be told from a first start.
		if err := p.cfg.Store.Save(ctx, start); err != nil {
			return fmt.Errorf("save checkpoint %s: %w", start.LSN, err)
		}
		p.saved = start
	}
	p.setCheckpoint(p.saved)
	return nil
}

// reopen opens the transaction that the position was saved in the middle of, if
// there is one and the server's history is still the same.
func (p *Pipeline) reopen(start Position) {
	partial, differs := p.saved.Partial, p.differs
	p.tx, p.cut, p.ordinal, p.handed, p.resumed, p.differs = nil, 0, 0, 0, false, false
	sameHistory := p.saved.Timeline == start.Timeline || p.cfg.Transactional // which refuses what does not come again
	if !differs && partial.Rows > 0 && sameHistory && p.saved.LSN == start.LSN {
		p.tx, p.resumed = p.acks.Begin(Transaction{CommitLSN: partial.CommitLSN}), true
		p.cut, p.handed, p.lastID = partial.CommitLSN, partial.Rows, []byte(partial.LastID)
	}
}

// stream runs s. A stream never ends by itself.
func (p *Pipeline) stream(ctx context.Context, s Stream) error {
	err := s.Run(ctx, (*handler)(p))
	if err == nil && ctx.Err() == nil {
		err = errors.New("ended by the server")
	}
	if err != nil {
		return fmt.Errorf("stream: %w", err)
	}
	return nil
}

// checkpoint saves the watermark as it moves.
func (p *Pipeline) checkpoint(ctx context.Context, s Stream) error {
	s.Confirm(p.savedLSN())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.acks.Moved():
		}
		sctx, cancel := context.WithTimeout(ctx, saveTimeout)
		err := p.save(sctx, s)
		cancel()
		if err != nil && ctx.Err() == nil {
			return err
		}
		timer.Reset(p.cfg.CheckpointInterval)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
	}
}

// savedLSN does not wait for a save that is under way.
func (p *Pipeline) savedLSN() LSN {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.durable.LSN
}

// supervise waits until the pipeline must stop. It then drains it while the
// stream is kept alive, so that the last position can still be confirmed. It
// returns nil if the stream broke first.
func (p *Pipeline) supervise(ctx, gctx context.Context, s Stream, stopSaving func()) *drainedError {
	var err error
	select {
	case <-gctx.Done():
		return nil // the stream broke
	case <-ctx.Done():
		p.stopAtRest(s)
	case err = <-p.failed:
		s.Stop()
	}
	stopSaving() // a save that hangs must not hold up the last one
	return p.drainFor(ctx, s, err)
}

// failedBetween drains the pipeline if it has failed while no stream was open: a sink
// that has given up takes no claim. Without dead letters the next stream comes first, to
// confirm the last position on.
func (p *Pipeline) failedBetween(ctx context.Context) *drainedError {
	if p.cfg.DeadLetters == nil || p.cfg.Transactional {
		return nil
	}
	select {
	case err := <-p.failed:
		return p.drainFor(ctx, nil, err)
	default:
		return nil
	}
}

// drainFor drains the pipeline because of err. The stream may be nil, if there is none.
func (p *Pipeline) drainFor(ctx context.Context, s Stream, err error) *drainedError {
	derr := p.drain(ctx, s)
	if errors.Is(derr, ErrFenced) && p.overtaken(ctx) {
		p.cfg.Logger.Warn("stopped without a save: another process has taken over, and publishes what was unacknowledged here")
		return &drainedError{cause: err, fenced: true}
	}
	return &drainedError{cause: errors.Join(err, derr)}
}

// overtaken reports whether another process has acquired the checkpoint, as a store said that
// has answered [ErrFenced]. A transactional one says so too of a transaction that the cluster
// has aborted for its age; then the epoch tells, which is written a moment after the predecessor is
// fenced. One that cannot be asked leaves it open, and the stop is not a clean one.
func (p *Pipeline) overtaken(ctx context.Context) bool {
	if !p.cfg.Transactional {
		return true
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), overtakenTimeout)
	defer cancel()
	ticker := time.NewTicker(overtakenInterval)
	defer ticker.Stop()
	for {
		if cp, err := p.cfg.Store.Load(ctx); err == nil && cp.Epoch != p.session.epoch {
			return true
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
	}
}
