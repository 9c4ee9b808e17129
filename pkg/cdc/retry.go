package cdc

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/walpost/walpost/pkg/circuit"
)

const (
	// pingInterval is how often a server that does not answer is tried while the
	// back-off runs.
	pingInterval = 500 * time.Millisecond

	// maxRetry is the longest wait while the server answers: what else is wrong, as
	// a full disk, cannot be asked for when it ends.
	maxRetry = 3 * time.Second

	// probation is how long a stream must live for its circuit to be closed, if the
	// two before it did not live as long. One that breaks is not held against its
	// successor.
	probation = 5 * time.Second
)

// ended says that the round has ended with cause, and returns how long to wait.
func (p *Pipeline) ended(cause error) time.Duration {
	msg := "stream cannot be opened yet"
	if p.Status().State == Streaming {
		msg = "stream interrupted"
		before := p.brief
		p.brief, p.broke = time.Since(p.opened) < probation, nil
		if before && p.brief {
			p.broke = cause
		}
	}
	if p.circuit.State() == circuit.Closed {
		p.down = time.Now()
	}
	delay := p.circuit.Fail()
	p.setState(Connecting, cause)
	text := OneLine(cause)
	p.repeats.Log(p.cfg.Logger, slog.LevelWarn, msg+circuit.WithoutNumbers(text), msg, "error", text, "retry_within", delay.Round(time.Millisecond).String())
	return delay
}

// prove closes the circuit: at once, or if the last streams did not live long, when
// this one has.
func (p *Pipeline) prove(ctx context.Context, start LSN, resumed bool) error {
	if p.broke != nil {
		timer := time.NewTimer(probation)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
	}
	p.circuit.Succeed()
	p.setProven()
	args := []any{"start_lsn", start.String(), "resumed", resumed}
	if !p.down.IsZero() {
		args = append(args, "outage", time.Since(p.down).Round(time.Millisecond).String())
		p.down = time.Time{}
	}
	p.cfg.Logger.Info("streaming", args...)
	return nil
}

// wait sleeps before the next attempt. It ends early when a server that did not
// answer answers again, and fails when ctx is done.
func (p *Pipeline) wait(ctx context.Context, delay time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, delay, errWaited)
	defer cancel()
	down := p.cfg.Source.Ping(ctx) != nil
	if !down {
		ctx, cancel = context.WithTimeoutCause(ctx, maxRetry, errWaited)
		defer cancel()
	}
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			if err := context.Cause(ctx); !errors.Is(err, errWaited) {
				return err
			}
			return nil
		case <-ticker.C:
			if down && p.cfg.Source.Ping(ctx) == nil {
				p.circuit.Hurry() // what made the wait longer was that it did not
				return nil
			}
		}
	}
}

var errWaited = errors.New("waited long enough")
