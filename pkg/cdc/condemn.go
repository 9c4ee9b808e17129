package cdc

import (
	"context"
	"errors"
	"fmt"
)

// A sink that is refused a record for good gives up, and all that was in flight
// behind it with it. With dead letters the pipeline then drains, opens the sink
// again and resumes from the checkpoint; when the condemned event comes again, it
// becomes a dead letter, and what comes behind it in its key is parked.

// condemned is an event that was refused after it was handed over.
type condemned struct {
	lsn     LSN
	ordinal int64
	id      string
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
	case p.cfg.Reopen == nil:
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.condemned[condemned{r.CommitLSN, r.Ordinal, string(r.ID)}] = poison
	return &condemnedError{fmt.Errorf("resuming from the checkpoint without a row that was refused for good: reason %s, id %s", poison.Reason, r.ID)}
}

// sentence returns why r is condemned, once, or nil: a later retry is tried again.
func (p *Pipeline) sentence(r *Record) *PoisonError {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.condemned) == 0 {
		return nil
	}
	c := condemned{r.CommitLSN, r.Ordinal, string(r.ID)}
	poison := p.condemned[c]
	delete(p.condemned, c)
	return poison
}

// isCondemned reports whether err is a condemnedError and nothing else.
func isCondemned(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // one joined with others is not enough
		all := joined.Unwrap()
		return len(all) == 1 && isCondemned(all[0])
	}
	_, ok := err.(*condemnedError) //nolint:errorlint // as above
	return ok
}

// recover makes the pipeline fit for another round after a drain, if that was for a
// condemned event only.
func (p *Pipeline) recover(ctx context.Context, cause error) bool {
	if !isCondemned(cause) || ctx.Err() != nil {
		return false
	}
	p.cfg.Logger.Warn(cause.Error())
	p.setState(Connecting, cause)
	if err := p.cfg.Reopen(ctx); err != nil {
		p.cfg.Logger.Error("open the sink again", "error", err)
		return false
	}
	p.handing.Lock()
	defer p.handing.Unlock()
	select {
	case <-p.failed: // of what was behind it
	default:
	}
	p.stopping, p.letters.lost = false, true
	p.gaveUp.Store(false)
	return true
}

// retracts reports whether some event is condemned and did not come again yet.
func (p *Pipeline) retracts() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.condemned) > 0
}
