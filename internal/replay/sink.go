package replay

import (
	"context"
	"errors"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// Sink passes records on, and counts those that are refused as poison: the stream would not
// publish them either. One that is refused at once, as an oversize one, is passed over. One that
// a broker refuses ends the sink below; the route passes over it when it comes again.
type Sink struct {
	below     cdc.Sink
	route     *Route
	done      func(*cdc.Record, error) // the caller's, which is the same for every record
	delivered func(*cdc.Record, error) // deliver
}

// NewSink returns a Sink for the records of a route, and of one pipeline.
func NewSink(below cdc.Sink, route *Route) *Sink {
	s := &Sink{below: below, route: route}
	s.delivered = s.deliver
	return s
}

// Produce implements [cdc.Sink].
func (s *Sink) Produce(ctx context.Context, rec *cdc.Record, done func(*cdc.Record, error)) error {
	if s.done == nil {
		s.done = done
	}
	topic := rec.Topic
	err := s.below.Produce(ctx, rec, s.delivered)
	if !isPoison(err) {
		if err != nil && !errors.Is(err, cdc.ErrWait) && !s.route.again {
			s.route.notTaken(topic)
		}
		return err
	}
	if !s.route.again {
		s.route.leaveOut(topic)
	}
	done(rec, nil)
	return nil
}

// Flush implements [cdc.Sink].
func (s *Sink) Flush(ctx context.Context) error { return s.below.Flush(ctx) }

// deliver is called by the sink below for each record.
func (s *Sink) deliver(rec *cdc.Record, err error) {
	if isPoison(err) && rec.CommitLSN != 0 {
		s.route.refuse(rec)
	}
	s.done(rec, err)
}

func isPoison(err error) bool {
	var poison *cdc.PoisonError
	return err != nil && errors.As(err, &poison)
}

// Refused returns how many records brokers have refused after they were handed over. Safe to
// call from any goroutine.
func (r *Route) Refused() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.refused)
}

func (r *Route) isRefused(ev *cdc.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.refused[markOfPlace(ev.Transaction.CommitLSN, ev.Ordinal)]
	return ok
}

func (r *Route) refuse(rec *cdc.Record) {
	r.mu.Lock()
	r.refused[markOfPlace(rec.CommitLSN, rec.Ordinal)] = struct{}{}
	r.mu.Unlock()
	r.leaveOut(rec.Topic)
}

// notTaken takes back that the record at hand, of a topic, was counted as published: if it comes
// again, it is as if it had not been met.
func (r *Route) notTaken(topic string) {
	r.last = r.before
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Published--
	if r.counts.Topics[topic]--; r.counts.Topics[topic] == 0 {
		delete(r.counts.Topics, topic)
	}
	if r.counts.Published == 0 {
		r.counts.First, r.counts.Last = time.Time{}, time.Time{}
	}
}

// leaveOut takes back that a record of a topic was counted as published.
func (r *Route) leaveOut(topic string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Published--
	r.counts.Topics[topic]--
	r.counts.Poison++
}
