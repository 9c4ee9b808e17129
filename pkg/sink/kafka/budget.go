package kafka

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errQuit is what acquire returns when quit is done.
var errQuit = errors.New("quit")

// budget bounds the bytes of the records in flight. acquire is called from one
// goroutine, all else from any.
type budget struct {
	max   int64
	space chan struct{} // receives a value after bytes were released
	timer *time.Timer   // owned by acquire

	mu      sync.Mutex
	bytes   int64         // guarded by mu
	records int64         // guarded by mu
	empty   chan struct{} // guarded by mu; closed when records falls to zero, nil while nobody waits
}

const (
	// patience is for how long nothing must be released before who waits for the budget takes
	// what is in flight to wait for more. It is as long as a linger in a transaction, which
	// keeps its first record away from the markers of the last one.
	patience = transactionLinger

	// maxPatience bounds it as it doubles while nothing is released.
	maxPatience = 160 * time.Millisecond
)

func newBudget(maxBytes int64) *budget {
	b := &budget{max: maxBytes, space: make(chan struct{}, 1), timer: time.NewTimer(0)}
	b.timer.Stop()
	return b
}

// acquire takes n bytes for one record, and reports whether it is the only one.
// While the bytes are not there it waits, until ctx or quit is done, and calls stuck, if there is
// one, whenever nothing was released for a while. stuck must not wait. A record that finds nothing
// in flight always passes.
func (b *budget) acquire(ctx context.Context, quit <-chan struct{}, n int64, stuck func()) (first bool, err error) {
	for wait := patience; ; {
		if first, ok := b.try(n); ok {
			return first, nil
		}
		var timeout <-chan time.Time
		if stuck != nil {
			b.timer.Reset(wait)
			timeout = b.timer.C
		}
		select {
		case <-b.space:
		case <-timeout:
			stuck()
			wait = min(2*wait, maxPatience)
		case <-quit:
			return false, errQuit
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

func (b *budget) try(n int64) (first, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.records > 0 && b.bytes+n > b.max {
		return false, false
	}
	b.bytes += n
	b.records++
	return b.records == 1, true
}

// release gives back the n bytes of one record.
func (b *budget) release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes -= n
	b.records--
	if b.records == 0 && b.empty != nil {
		close(b.empty)
		b.empty = nil
	}
	select {
	case b.space <- struct{}{}:
	default: // a signal is already waiting
	}
}

// wait returns once nothing is in flight, or ctx is done.
func (b *budget) wait(ctx context.Context) error {
	for empty := b.whenEmpty(); empty != nil; empty = b.whenEmpty() {
		select {
		case <-empty:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// whenEmpty returns a channel that closes when nothing is in flight, or nil if
// that is so now.
func (b *budget) whenEmpty() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.records == 0 {
		return nil
	}
	if b.empty == nil {
		b.empty = make(chan struct{})
	}
	return b.empty
}

func (b *budget) inFlight() (records, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.records, b.bytes
}
