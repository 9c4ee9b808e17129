package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// orphans are records that a client has failed and another is to send: those of
// topics that were deleted and created again, which the client library does not
// adopt, and those that were in, behind or beside a batch that a broker refused
// or found damaged. As these fail in order and nothing passes them, they can be
// sent again in order.
type orphans struct {
	feeding chan struct{} // capacity 1; holds a value while somebody gives records to a client

	mu       sync.Mutex
	waiting  []*delivery    // guarded by mu; in the order of their failure
	adopting bool           // guarded by mu; somebody takes care of them
	adopters sync.WaitGroup // who does
}

// orphan keeps d, which has failed with err, to be sent again, unless the sink
// has given up.
func (s *Sink) orphan(d *delivery, err error) bool {
	s.orphans.mu.Lock()
	defer s.orphans.mu.Unlock()
	if s.failure() != nil {
		return false
	}
	switch {
	case isRefusal(err):
		s.narrowing.Store(true)
		d.refusal = err
	case errors.Is(err, kerr.UnknownTopicID) && !d.topic.stale.Swap(true):
		s.log.Warn("topic was deleted and created again, sending its records to the new one", "topic", d.topic.name)
	}
	s.orphans.waiting = append(s.orphans.waiting, d)
	if !s.orphans.adopting {
		s.orphans.adopting = true
		s.orphans.adopters.Go(s.adopt)
	}
	return true
}

// adopt sends the orphans with a new client, once the old one has finished all
// else, and before anything new. What it sends may come back.
func (s *Sink) adopt() {
	s.orphans.feeding <- struct{}{}
	defer s.unfeed()
	var queue []*delivery
	for {
		back, done := s.takeOrphans(len(queue) == 0)
		if done {
			return
		}
		queue = append(back, queue...) // what comes back was sent earlier
		alone, culprit, err := s.readopt(queue, len(back) > 0)
		if err != nil {
			s.abandon(queue, culprit, err)
			return
		}
		queue = s.resend(queue, alone)
	}
}

// takeOrphans returns the orphans once the client has nothing in flight. If
// there are none, and there is nothing else to be sent, the adopter is done.
func (s *Sink) takeOrphans(last bool) (waiting []*delivery, done bool) {
	if last && s.leave() {
		return nil, true
	}
	_ = s.client.Load().Flush(untilQuit{s}) // fails only if the sink has given up
	s.orphans.mu.Lock()
	defer s.orphans.mu.Unlock()
	waiting, s.orphans.waiting = s.orphans.waiting, nil
	return waiting, false
}

// leave reports whether nothing waits for the adopter, who may then go.
func (s *Sink) leave() bool {
	s.orphans.mu.Lock()
	defer s.orphans.mu.Unlock()
	s.orphans.adopting = len(s.orphans.waiting) > 0
	return !s.orphans.adopting
}

// readopt makes the client fit for the head of the queue, and reports whether
// that must go alone; or it returns why that cannot be, and the record that is
// to blame, if it is one. It must be called while feeding, with nothing in
// flight.
func (s *Sink) readopt(queue []*delivery, orphaned bool) (alone bool, culprit *delivery, err error) {
	if err := s.failure(); err != nil {
		return false, nil, err
	}
	if culprit, err := s.narrow(queue); err != nil {
		return false, culprit, err
	}
	if s.txn != nil {
		return false, nil, errNewClient
	}
	if alone = makeRoom(queue[0]); !orphaned && !alone {
		return false, nil, nil
	}
	if err := s.replaceClient(); err != nil {
		return false, nil, fmt.Errorf("send records again: %w", err)
	}
	return alone, nil, nil
}

// resend gives the queue to the client up to the first record that does not fit
// into a batch, or only its head, and returns the rest.
func (s *Sink) resend(queue []*delivery, alone bool) []*delivery {
	for i, d := range queue {
		if alone && i > 0 || batchSize(d.record) > d.topic.batch() {
			return queue[i:]
		}
		s.send(d)
	}
	return nil
}

// abandon gives up for err, if the sink has not given up yet, and fails ds: the
// culprit first, with err, and the others for what the sink gave up for.
func (s *Sink) abandon(ds []*delivery, culprit *delivery, err error) {
	if s.giveUp(err) {
		if culprit != nil {
			s.finish(culprit, err)
			ds = slices.DeleteFunc(ds, func(d *delivery) bool { return d == culprit })
		}
		s.tell()
	}
	<-s.told
	for _, d := range ds {
		s.finish(d, s.failure())
	}
}

// send gives d to the client. It must be called while feeding.
func (s *Sink) send(d *delivery) {
	d.prepare()
	c := s.client.Load()
	if s.txn != nil {
		s.txn.loading.sent(d.topic, c)
		s.txn.fill()
	}
	c.Produce(context.Background(), &d.Record, s.promise)
}

// createGone creates, if topics are to be created, those that records have waited for and that
// were deleted since they were met: the client library does no more than wait for them.
func (s *Sink) createGone(ctx context.Context) {
	if !s.cfg.CreateTopics {
		return
	}
	names := s.health.flight.topics(stallAfter)
	if len(names) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, failed := countAll(ctx, s.client.Load(), names)
	for _, name := range names {
		if !errors.Is(failed[name], kerr.UnknownTopicOrPartition) {
			continue
		}
		if _, err := s.create(ctx, name); err != nil && ctx.Err() == nil {
			s.health.warn("create "+name, "a topic was deleted, and cannot be created again", "topic", name, "err", err, "hint", hintFor(err))
		}
	}
}

// replaceClient must be called while feeding, with nothing in flight at the
// client. A topic that is only purged from the client would be written again
// from sequence 0 of the same epoch, which the broker takes for duplicates.
func (s *Sink) replaceClient() error {
	c, err := s.newClient()
	if err != nil {
		return err
	}
	s.narrowing.Store(false)
	s.client.Swap(c).Close()
	return nil
}

// closeClient closes the client, once nobody uses it: the sink has given up.
func (s *Sink) closeClient() {
	s.orphans.mu.Lock()
	s.orphans.adopting = true // nobody else starts to
	s.orphans.mu.Unlock()
	s.orphans.adopters.Wait()
	s.client.Load().Close()
}

// untilQuit is a context that ends when the sink gives up.
type untilQuit struct{ s *Sink }

// Deadline implements [context.Context].
func (untilQuit) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements [context.Context].
func (c untilQuit) Done() <-chan struct{} { return c.s.quit }

// Err implements [context.Context].
func (c untilQuit) Err() error { return c.s.failure() }

// Value implements [context.Context].
func (untilQuit) Value(any) any { return nil }
