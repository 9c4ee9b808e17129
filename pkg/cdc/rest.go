package cdc

import (
	"sync/atomic"
	"time"
)

// restWait is how long a stop waits for the end of the transaction that is being handed
// over. Most end within it: then nothing has to be remembered of one that was published in
// part, and another reader of the slot could go on without repeating anything.
const restWait = 100 * time.Millisecond

// rest ends a stream between two transactions.
type rest struct {
	asked   atomic.Bool
	reached chan struct{} // capacity 1; holds a value once a transaction was about to begin
	over    chan struct{} // closed once the stream is stopped
}

func newRest() rest {
	return rest{reached: make(chan struct{}, 1), over: make(chan struct{})}
}

// wait holds a transaction up that is about to begin, until the stream is stopped.
func (r *rest) wait() {
	select {
	case r.reached <- struct{}{}:
	default:
	}
	<-r.over
}

// stopAtRest stops the stream once no transaction is open, or after restWait.
func (p *Pipeline) stopAtRest(s Stream) {
	p.rest.asked.Store(true)
	defer close(p.rest.over)
	defer s.Stop()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(restWait); time.Now().Before(deadline); {
		if p.isAtRest() {
			return
		}
		select {
		case <-p.rest.reached:
			return
		case <-ticker.C:
		}
	}
}

// isAtRest reports whether nothing is being handed over and no transaction is open. Then
// none begins any more.
func (p *Pipeline) isAtRest() bool {
	select {
	case p.handing <- struct{}{}:
	default:
		return false
	}
	defer p.handing.Unlock()
	atRest := p.tx == nil || p.resumed
	p.stopping = p.stopping || atRest
	return atRest
}
