// Package circuit is how the way to a server is given up for a while and tried
// again: a circuit breaker with its back-off, and the log of it.
package circuit

import (
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
)

// State is the state of a [Breaker]. Its numbers are what the metric shows: the
// higher, the worse.
type State int

// The states of a breaker.
const (
	Closed   State = iota // it works, as far as is known
	HalfOpen              // it has failed and is being tried
	Open                  // it has failed and is not tried before some time has passed
)

// String returns the state's word.
func (s State) String() string { return [...]string{"closed", "half-open", "open"}[s] }

// Breaker is the circuit to one server. It forbids nothing: who uses it waits as
// long as Fail says. It begins closed. Its methods may be called from any goroutine.
type Breaker struct {
	breaker circuitbreaker.CircuitBreaker[any]

	mu    sync.Mutex
	waits backoff.ExponentialBackOff // guarded by mu
}

// New returns a closed breaker, whose waits double from initial to max.
func New(initial, max time.Duration) *Breaker {
	// The upper half of each wait is random, so that instances do not come in step.
	return &Breaker{
		breaker: circuitbreaker.NewWithDefaults[any](),
		waits: backoff.ExponentialBackOff{
			InitialInterval: initial * 3 / 4, MaxInterval: max * 3 / 4, Multiplier: 2, RandomizationFactor: 1. / 3,
		},
	}
}

// Fail opens the circuit and returns how long to wait before it is tried again. Each
// wait is longer than the last, up to the longest.
func (b *Breaker) Fail() time.Duration {
	b.breaker.Open()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waits.NextBackOff()
}

// Try says that an attempt begins: it half-opens a circuit that is open.
func (b *Breaker) Try() {
	if b.breaker.IsOpen() {
		b.breaker.HalfOpen()
	}
}

// FailTry opens a half-open circuit again: the attempt has failed.
func (b *Breaker) FailTry() {
	if b.breaker.IsHalfOpen() {
		b.breaker.Open()
	}
}

// Succeed closes the circuit.
func (b *Breaker) Succeed() { b.breaker.Close() }

// Hurry makes the next wait the shortest again: there was progress, or the server
// that did not answer does.
func (b *Breaker) Hurry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waits.Reset()
}

// State returns the circuit's state.
func (b *Breaker) State() State {
	switch b.breaker.State() {
	case circuitbreaker.ClosedState:
		return Closed
	case circuitbreaker.HalfOpenState:
		return HalfOpen
	}
	return Open
}
