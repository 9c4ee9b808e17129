// Package sleep waits for a moment more exactly than the runtime's timers do, which wake a
// process that is idle up to a millisecond late, and several goroutines at once where many are
// due one after the other.
package sleep

import (
	"context"
	"time"
)

// exact is how much of a wait is not left to a timer, and cannot be cut short.
const exact = 2 * time.Millisecond

// Until blocks until t, and returns at once if t has passed. It holds an operating system's thread
// for the last milliseconds. The error is the cause of ctx, if that ends before.
func Until(ctx context.Context, t time.Time) error {
	if wait := time.Until(t) - exact; wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	napUntil(t)
	return nil
}
