package cdc

import (
	"context"
	"errors"
	"fmt"
)

// A sink that is refused a record for good gives up, and all that was in flight
// behind it with it. With dead letters the pipeline then drains, opens the sink
// again and resumes from the checkpoint; when the condemned event comes again, it
// becomes a dead letter, and what comes behind it in its key is parked. In a
// transactional pipeline that costs the open transaction.

// condemned is an event that was refused after it was handed over.
type condemned struct {
	lsn     LSN
	ordinal int64
	id      string
}

// verdict is why, and whether that was in a retry: its event lies behind the checkpoint.
type verdict struct {
	poison  *PoisonError
	retried bool
}

// condemnedError ends a round for such an event.
type condemnedError struct{ err error }

func (e *condemnedError) Error() string { return e.err.Error() }

// condemn notes that r was refused for err, and returns the error to fail with.
func (p *Pipeline) condemn(r *Record, err error) error {
	var poison *PoisonError
	if !errors.As(err, &poison) {
		return err
	}
	p.countFailed(poison.Reason)
	d := p.cfg.DeadLetters
	switch {
	case d == nil:
		return err
	case r.Topic == d.Topic:
		return d.refuse(poison)
	case p.cfg.Reopen == nil && !p.cfg.Transactional:
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.condemned[condemned{r.CommitLSN, r.Ordinal, string(r.ID)}] = verdict{poison, r.tx == nil}
	return &condemnedError{fmt.Errorf("reason %s, id %s", poison.Reason, r.ID)}
}

// sentence returns why r is condemned, once, or nil: a later retry is tried again.
func (p *Pipeline) sentence(r *Record) *PoisonError {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.condemned) == 0 {
		return nil
	}
	c := condemned{r.CommitLSN, r.Ordinal, string(r.ID)}
	v := p.condemned[c]
	delete(p.condemned, c)
	return v.poison
}

// recover makes the pipeline fit for another round after a drain, if that was for a
// condemned event. What else went wrong at the end of the stream does not matter: the
// checkpoint says where to go on.
func (p *Pipeline) recover(ctx context.Context, cause error) bool {
	var condemned *condemnedError
	// What the sink says to those behind the event may have come first.
	followed := p.gaveUp.Load() && p.retracts() && !isFinal(cause)
	if p.cfg.Transactional || !errors.As(cause, &condemned) && !followed || ctx.Err() != nil {
		return false
	}
	p.cfg.Logger.Warn("resuming from the checkpoint without a row that was refused for good", "error", cause)
	p.setState(Connecting, cause)
	if err := p.cfg.Reopen(ctx); err != nil {
		p.cfg.Logger.Error("open the sink again", "error", err)
		return false
	}
	p.handing.Lock()
	defer p.handing.Unlock()
	select {
	case behind := <-p.failed:
		p.cfg.Logger.Debug("given up behind it", "error", behind)
	default:
	}
	p.stopping, p.letters.lost = false, true
	p.gaveUp.Store(false)
	return true
}

// forgetPassed drops the verdicts on events behind a position, which do not come again:
// another process may have published them, or they are parked. p.mu must be held.
func (p *Pipeline) forgetPassed(lsn LSN) {
	for c, v := range p.condemned {
		if !v.retried && c.lsn < lsn {
			delete(p.condemned, c)
		}
	}
}

// forgetRetried drops those of retries, since none is under way or to be carried out again.
func (p *Pipeline) forgetRetried() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, v := range p.condemned {
		if v.retried {
			delete(p.condemned, c)
		}
	}
}

// retracts reports whether some event is condemned and did not come again yet.
func (p *Pipeline) retracts() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.condemned) > 0
}
