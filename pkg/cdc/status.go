package cdc

import (
	"maps"
	"time"

	"github.com/walpost/walpost/pkg/circuit"
)

// State is what a pipeline is doing.
type State string

// The states of a pipeline.
const (
	Connecting State = "connecting" // opening the stream, waiting for the slot or before another attempt
	Streaming  State = "streaming"
	Stopping   State = "stopping" // waiting for what is in flight
	Stopped    State = "stopped"
)

// Status is a pipeline's condition at one moment.
type Status struct {
	State State
	Err   error // why the last stream ended; nil while streaming, unless it is on probation

	// Circuit is the one to the source and the store. It is half-open while a
	// stream is opened again, and goes on to be so for some seconds while one
	// runs whose predecessors ended soon.
	Circuit circuit.State

	Received     LSN // everything committed before it has been handed to the sink
	Acknowledged LSN // the watermark
	Checkpoint   LSN // what is saved

	Unconfirmed int       // events from the oldest unacknowledged one on
	Oldest      time.Time // commit time of the oldest unacknowledged transaction; zero if there is none
	CaughtUp    time.Time // the last moment known to have nothing unacknowledged
	Standby     bool      // another process owns the slot, and publishes
	StoodBy     time.Time // when it last was one; zero if never
	LastAck     time.Time // when a record was last acknowledged; zero if none was
	Saving      time.Time // when the save that is under way began; zero if none is

	Failed      map[PoisonReason]int64 // events found to be poison, by reason
	DeadLetters map[PoisonReason]int64 // of them, those that became dead letters
	OpenDead    int                    // dead letters that are neither published nor discarded
	ParkedKeys  int                    // keys whose events wait behind a dead letter
	Parked      int                    // events that do
	Held        bool                   // nothing is taken, since as many events are dead, or parked, as may be

	// HeldForRetry says that nothing is taken for some seconds, while a request
	// about dead letters catches up with what is being parked.
	HeldForRetry bool
}

// Lag returns the age of the oldest unacknowledged commit at now: zero when
// caught up, and for a standby, which cannot know. While nothing streams it counts
// up from the last moment known to be caught up, or from when another process gave
// the slot up, which had it until then.
func (s Status) Lag(now time.Time) time.Duration {
	since := s.Oldest
	switch {
	case s.Standby, s.State == Streaming && since.IsZero():
		return 0
	case s.State == Streaming:
	case s.StoodBy.After(s.CaughtUp):
		since = s.StoodBy
	case since.IsZero() || s.CaughtUp.Before(since):
		since = s.CaughtUp
	}
	return max(0, now.Sub(since))
}

// Status returns the pipeline's condition. Safe to call from any goroutine.
func (p *Pipeline) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Failed, s.DeadLetters = maps.Clone(s.Failed), maps.Clone(s.DeadLetters)
	s.Circuit = p.circuit.State()
	s.Received = LSN(p.received.Load())
	if p.cfg.Standby != nil {
		s.Standby, s.StoodBy = p.cfg.Standby()
	}
	if at := p.savingSince.Load(); at != 0 {
		s.Saving = Stamped(at)
	}
	if at := p.acked.Load(); at != 0 {
		s.LastAck = Stamped(at)
	}
	if p.acks != nil {
		s.Acknowledged, _ = p.acks.Watermark()
		s.Oldest = p.acks.Oldest()
		s.Unconfirmed = p.acks.Held()
	}
	return s
}

func (p *Pipeline) setState(state State, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status.State == Streaming && state != Streaming {
		if p.status.CaughtUp = p.acks.Oldest(); p.status.CaughtUp.IsZero() {
			p.status.CaughtUp = time.Now()
		}
	}
	p.status.State, p.status.Err = state, err
}

// explain says why the stream is not open yet.
func (p *Pipeline) explain(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status.State == Connecting {
		p.status.Err = err
	}
}

// setHeld reports whether that is news.
func (p *Pipeline) setHeld(held bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	news := p.status.Held != held
	p.status.Held = held
	return news
}

func (p *Pipeline) setHeldForRetry(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.HeldForRetry = held
}

// setProven says that the stream is on probation no more.
func (p *Pipeline) setProven() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status.State == Streaming {
		p.status.Err = nil
	}
}

func (p *Pipeline) setTracker(t *Tracker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.acks = t
}

func (p *Pipeline) setCheckpoint(pos Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Checkpoint, p.durable = pos.LSN, pos
	p.forgetPassed(pos.LSN)
}

func (p *Pipeline) countFailed(reason PoisonReason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Failed[reason]++
}

func (p *Pipeline) countDead(reason PoisonReason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.DeadLetters[reason]++
}

// countParked must be called with handing held.
func (p *Pipeline) countParked() {
	lots := p.letters.lots
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.OpenDead, p.status.ParkedKeys, p.status.Parked = lots.dead, len(lots.keyed), lots.open-lots.dead
}
