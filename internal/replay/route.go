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
	last    place     // the furthest that was met; owned by the goroutine that routes
	before  place     // what last was before the event at hand; owned by the goroutine that routes
	again   bool      // the event at hand was met before; owned by the goroutine that routes

	mu      sync.Mutex
	counts  Counts            // guarded by mu
	refused map[mark]struct{} // guarded by mu; by a broker, after they were handed over
}

// place is where an event lies in WAL.
type place struct {
	lsn     cdc.LSN
	ordinal int64
}

// NewRoute returns a Route on top of another, whose waits end with ctx. It passes over the
// events that wait.
func NewRoute(ctx context.Context, plan Plan, waiting *Waiting, route func(*cdc.Event) (*cdc.Record, error)) *Route {
	return &Route{ctx: ctx, plan: plan, waiting: waiting, route: route, id: []byte(plan.ID), counts: Counts{Topics: map[string]int64{}}, refused: map[mark]struct{}{}}
}

// Counts returns what became of the events so far. Safe to call from any goroutine.
func (r *Route) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts
	c.Topics = maps.Clone(c.Topics)
	return c
}

// Route is for [cdc.Config]. An event that is not to be published is [cdc.ErrSkip].
func (r *Route) Route(ev *cdc.Event) (*cdc.Record, error) {
	r.meet(ev)
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
	case r.isRefused(ev):
		rec.Free()
		return nil, cdc.ErrSkip // it is counted
	}
	r.mark(rec)
	r.count(rec)
	return rec, r.pace()
}

// meet notes whether an event has come before, as after a connection broke: it is counted once.
// Rows of a table have no place, and come once.
func (r *Route) meet(ev *cdc.Event) {
	at := place{ev.Transaction.CommitLSN, ev.Ordinal}
	r.again = at.lsn != 0 && (at.lsn < r.last.lsn || at.lsn == r.last.lsn && at.ordinal <= r.last.ordinal)
	if !r.again {
		r.before, r.last = r.last, at
	}
}

// skip counts an event that is not published.
func (r *Route) skip(count *int64) (*cdc.Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.again {
		*count++
	}
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
	if r.again {
		return
	}
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
