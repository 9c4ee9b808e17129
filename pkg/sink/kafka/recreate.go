package kafka

import (
	"context"
	"fmt"
	"sync"
)

// orphans are records of topics that were deleted and created again. The client
// library does not adopt the new topic: it fails all that waits for the old
// one, and all that comes after, until the client is replaced. As these fail in
// order and nothing passes them, they can be sent again in order.
type orphans struct {
	feeding chan struct{} // capacity 1; holds a value while somebody gives records to a client

	mu       sync.Mutex
	waiting  []*delivery    // guarded by mu; in the order of their failure
	adopting bool           // guarded by mu; somebody takes care of them
	adopters sync.WaitGroup // who does
}

// orphan keeps d to be sent again, unless the sink has given up.
func (s *Sink) orphan(d *delivery) bool {
	s.orphans.mu.Lock()
	defer s.orphans.mu.Unlock()
	if s.failure() != nil {
		return false
	}
	s.orphans.waiting = append(s.orphans.waiting, d)
	if !s.orphans.adopting {
		s.orphans.adopting = true
		s.orphans.adopters.Go(s.adopt)
	}
	return true
}

func (s *Sink) takeOrphans() []*delivery {
	s.orphans.mu.Lock()
	defer s.orphans.mu.Unlock()
	waiting := s.orphans.waiting
	s.orphans.waiting, s.orphans.adopting = nil, false
	return waiting
}

// adopt sends the orphans with a new client, once the old one has finished all
// else, and before anything new.
func (s *Sink) adopt() {
	s.orphans.feeding <- struct{}{}
	defer s.unfeed()
	old := s.client.Load()
	_ = old.Flush(context.Background()) // ends at the latest when Close closes the client
	waiting := s.takeOrphans()
	if s.failure() != nil {
		s.abandon(waiting)
		return
	}
	if err := s.replaceClient(); err != nil {
		s.giveUp(fmt.Errorf("send records of a topic that was created again: %w", err))
		s.tell()
		s.abandon(waiting)
		return
	}
	s.log.Warn("topic was deleted and created again, sending its records to the new one", "records", len(waiting))
	for _, d := range waiting {
		d.topic.stale.Store(true)
		s.send(d)
	}
}

// abandon fails deliveries after the sink has given up.
func (s *Sink) abandon(ds []*delivery) {
	for _, d := range ds {
		s.finish(d, s.failure())
	}
}

// send gives d to the client. It must be called while feeding.
func (s *Sink) send(d *delivery) {
	d.prepare()
	s.client.Load().Produce(context.Background(), &d.Record, s.promise)
}

// replaceClient must be called while feeding, with nothing in flight at the
// client. A topic that is only purged from the client would be written again
// from sequence 0 of the same epoch, which the broker takes for duplicates.
func (s *Sink) replaceClient() error {
	c, err := s.newClient()
	if err != nil {
		return err
	}
	s.client.Swap(c).Close()
	return nil
}

// closeClients closes the client, and its successor if there is one by then.
func (s *Sink) closeClients() {
	s.orphans.mu.Lock()
	c := s.client.Load() // the sink has given up: nobody starts to adopt from here on
	s.orphans.mu.Unlock()
	c.Close()
	s.orphans.adopters.Wait()
	if last := s.client.Load(); last != c {
		last.Close()
	}
}
