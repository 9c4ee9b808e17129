package kafka

import "sync"

// held are failures that follow from the record for which the sink gave up, until that was
// told of.
type held struct {
	mu   sync.Mutex
	list []outcome // guarded by mu
}

// outcome is a call of done.
type outcome struct {
	d   *delivery
	err error
}

// hold fails d for what made the sink give up, once that was told.
func (s *Sink) hold(d *delivery) {
	s.held.mu.Lock()
	s.held.list = append(s.held.list, outcome{d, s.failure()})
	s.held.mu.Unlock()
	select {
	case <-s.told:
		s.finishHeld()
	default:
	}
}

// tell says that the reason was told of. Whoever gives up without a record to tell of does
// so before that: no record may follow that would release what is held.
func (s *Sink) tell() { s.toldOnce.Do(func() { close(s.told) }) }

// finishHeld fails what was given up because of another record, after that
// one: the first error that done reports is then the reason for all.
func (s *Sink) finishHeld() {
	s.held.mu.Lock()
	list := s.held.list
	s.held.list = nil
	s.held.mu.Unlock()
	for _, o := range list {
		s.finish(o.d, o.err)
	}
}
