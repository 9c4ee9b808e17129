package replay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// typeColumn is what Options.Type is compared with.
const typeColumn = "type"

// Counts are what became of events.
type Counts struct {
	Published int64            `json:"published"`        // those that were chosen
	Passed    int64            `json:"passed_over"`      // that were not asked for
	Waiting   int64            `json:"dead_or_parked"`   // the stream publishes them once they are retried
	Poison    int64            `json:"cannot_be_routed"` // the stream did not publish them either, but as dead letters
	Topics    map[string]int64 `json:"topics"`
	First     time.Time        `json:"first_commit,omitzero"` // of the chosen
	Last      time.Time        `json:"last_commit,omitzero"`
}

// Route chooses among the events, and marks the records.
type Route struct {
	ctx     context.Context //nolint:containedctx // cdc.Config.Route has none, and the wait for the rate must end
	plan    Plan
	waiting *Waiting
	route   func(*cdc.Event) (*cdc.Record, error)
	id      []byte
	next    time.Time // when the rate allows another; owned by the goroutine that routes

	mu     sync.Mutex
	counts Counts // guarded by mu
}

// NewRoute returns a Route on top of another, whose waits end with ctx. It passes over the
// events that wait.
func NewRoute(ctx context.Context, plan Plan, waiting *Waiting, route func(*cdc.Event) (*cdc.Record, error)) *Route {
	return &Route{ctx: ctx, plan: plan, waiting: waiting, route: route, id: []byte(plan.ID), counts: Counts{Topics: map[string]int64{}}}
}

// Counts returns what became of the events so far. Safe to call from any goroutine.
func (r *Route) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts
	c.Topics = maps.Clone(c.Topics)
	return c
}

// Sink passes records on, but for those that it refuses at once as poison, as an oversize one:
// the stream has not published them either.
type Sink struct {
	cdc.Sink
	Route *Route
}

// Produce implements [cdc.Sink].
func (s Sink) Produce(ctx context.Context, rec *cdc.Record, done func(*cdc.Record, error)) error {
	topic := rec.Topic
	err := s.Sink.Produce(ctx, rec, done)
	var poison *cdc.PoisonError
	if !errors.As(err, &poison) {
		return err
	}
	s.Route.mu.Lock()
	s.Route.counts.Published--
	s.Route.counts.Topics[topic]--
	s.Route.counts.Poison++
	s.Route.mu.Unlock()
	done(rec, nil)
	return nil
}

// Route is for [cdc.Config]. An event that is not to be published is [cdc.ErrSkip].
func (r *Route) Route(ev *cdc.Event) (*cdc.Record, error) {
	chosen, err := r.plan.admits(ev)
	if err != nil {
		return nil, err
	}
	if !chosen {
		return r.skip(&r.counts.Passed)
	}
	rec, err := r.route(ev)
	var poison *cdc.PoisonError
	switch {
	case errors.As(err, &poison):
		if rec != nil {
			rec.Free()
		}
		return r.skip(&r.counts.Poison)
	case err != nil:
		return rec, err
	case r.plan.Key != "" && string(rec.Key) != r.plan.Key, r.plan.Topic != "" && rec.Topic != r.plan.Topic:
		rec.Free()
		return r.skip(&r.counts.Passed)
	case r.waiting.has(ev, rec):
		rec.Free()
		return r.skip(&r.counts.Waiting)
	}
	r.mark(rec)
	r.count(rec)
	return rec, r.pace()
}

// skip counts an event that is not published.
func (r *Route) skip(count *int64) (*cdc.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	*count++
	return nil, cdc.ErrSkip
}

func (r *Route) mark(rec *cdc.Record) {
	rec.Headers = append(rec.Headers, cdc.Header{Key: Header, Value: r.id})
	if r.plan.Into != "" {
		rec.Topic = r.plan.Into
	}
	if r.plan.Now {
		rec.Timestamp = time.Now()
	}
}

func (r *Route) count(rec *cdc.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Published++
	r.counts.Topics[rec.Topic]++
	if r.counts.First.IsZero() {
		r.counts.First = rec.CommitTime
	}
	r.counts.Last = rec.CommitTime
}

// maxBurst is how far the rate may run ahead, so that it holds over short times only on
// average: a timer for each event would be slower than the rate.
const maxBurst = 20 * time.Millisecond

// pace waits for as long as the rate asks.
func (r *Route) pace() error {
	if r.plan.Rate <= 0 {
		return nil
	}
	now := time.Now()
	if r.next.Before(now) {
		r.next = now
	}
	r.next = r.next.Add(time.Duration(float64(time.Second) / r.plan.Rate))
	ahead := r.next.Sub(now)
	if ahead < maxBurst {
		return nil
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.ctx.Done():
		return nil // the record goes out still, and the pipeline stops
	}
}

// admits reports whether an event is asked for, as far as its row tells.
func (p *Plan) admits(ev *cdc.Event) (bool, error) {
	at := ev.Transaction.CommitTime
	if !p.Since.IsZero() && at.Before(p.Since) || !p.Until.IsZero() && !at.Before(p.Until) {
		return false, nil
	}
	if p.Type == "" {
		return true, nil
	}
	for i, c := range ev.Relation.Columns {
		if c.Name == typeColumn {
			return ev.Values[i].Format != cdc.Null && string(ev.Values[i].Data) == p.Type, nil
		}
	}
	return false, cdc.Refuse("leave --type out", "table %s.%s has no column %q", ev.Relation.Schema, ev.Relation.Name, typeColumn)
}

// String says what is asked for, for people.
func (p *Plan) String() string {
	s := fmt.Sprintf("from %s to %s", p.From, p.To)
	for _, c := range []struct{ name, value string }{{"key", p.Key}, {"type", p.Type}, {"topic", p.Topic}, {"into", p.Into}} {
		if c.value != "" {
			s += fmt.Sprintf(", %s %q", c.name, c.value)
		}
	}
	if !p.Since.IsZero() {
		s += ", since " + p.Since.UTC().Format(time.RFC3339)
	}
	if !p.Until.IsZero() {
		s += ", until " + p.Until.UTC().Format(time.RFC3339)
	}
	return s
}
