package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/progress"
	"github.com/walpost/walpost/internal/sleep"
)

// backlog measures how long a process takes for what was written before it started.
func (b *bench) backlog(ctx context.Context) error {
	b.say("starting walpost and reading topic %s", b.names.Topic())
	bar := progress.New(b.cfg.Out, "backlog", int64(b.cfg.Events))
	defer bar.Done()
	begun := time.Now()
	var first, last time.Duration
	b.reader.fresh = func(_ int64, at time.Time) {
		last = at.Sub(begun)
		if first == 0 {
			first = last
		}
		bar.Set(int64(b.reader.received))
	}
	u, err := b.beside(ctx, func(ctx context.Context) error {
		return b.reader.until(ctx, func() bool { return b.reader.received >= b.cfg.Events })
	})
	b.sum.Backlog = newBacklog(b.reader.received, b.cfg.Bytes, first, last, u)
	return err
}

// plan says when what is written in the steady phase. It is open loop: what is late does
// not make what follows later.
type plan struct {
	events, batch, rate int
}

// plan returns that of the configuration. There is a transaction in every second.
func (c Config) plan() plan {
	if c.Rate == 0 {
		return plan{}
	}
	return plan{events: int(float64(c.Rate) * c.Duration.Seconds()), batch: min(c.Batch, c.Rate), rate: c.Rate}
}

func (p plan) transactions() int { return (p.events + p.batch - 1) / p.batch }

// due returns when a transaction is to be committed, after the begin.
func (p plan) due(transaction int) time.Duration {
	return time.Duration(float64(transaction) * float64(p.batch) / float64(p.rate) * float64(time.Second))
}

// counts reports whether the latency of a transaction counts: not in the first fifth of the
// time, in which the process, the sessions and the broker get going.
func (p plan) counts(transaction int) bool { return transaction >= p.transactions()/5 }

// span returns the first and the last event of a transaction, counted from 0.
func (p plan) span(transaction int) (first, last int) {
	return transaction * p.batch, min((transaction+1)*p.batch, p.events) - 1
}

const (
	// sessions write beside each other.
	sessions = 8

	// headStart is between the opening of the sessions and the first event.
	headStart = 100 * time.Millisecond

	// maxLatency is the longest that is told apart from longer ones.
	maxLatency = time.Hour
)

// steady measures how late a stream arrives, on a process of its own.
func (b *bench) steady(ctx context.Context) error {
	p := b.cfg.plan()
	b.say("writing %s events a second for %s", humanize.Comma(int64(p.rate)), b.cfg.Duration)
	before := b.reader.received
	arrived, committed := newHistogram(), newHistogram()
	u, err := b.beside(ctx, func(ctx context.Context) error {
		if err := b.probe(ctx); err != nil {
			return fmt.Errorf("wait for the first event: %w", err)
		}
		return b.stream(ctx, p, arrived, committed)
	})
	b.sum.Steady = &Steady{
		Rate: p.rate, Duration: b.cfg.Duration, Written: p.events, Events: b.reader.received - before,
		Latency: arrived.latency(), Commit: committed.latency(), CPU: u.cpu, PeakRSS: u.rss,
	}
	return err
}

// probe writes an event that does not count, and waits for it: then the process is up.
func (b *bench) probe(ctx context.Context) error {
	b.reader.fresh = nil
	if _, err := b.lock.Exec(ctx, insertion(b.names, b.cfg.Bytes), int64(0), int64(0)); err != nil {
		return err
	}
	return b.reader.until(ctx, func() bool { return b.reader.probed })
}

// stream writes and reads.
func (b *bench) stream(ctx context.Context, p plan, arrived, committed *histogram) error {
	bar := progress.New(b.cfg.Out, "steady", int64(p.events))
	defer bar.Done()
	conns := make([]*pgx.Conn, 0, sessions)
	defer func() {
		for _, conn := range conns {
			hangUp(conn)
		}
	}()
	for range sessions {
		conn, err := b.newWriter(ctx)
		if err != nil {
			return err
		}
		conns = append(conns, conn)
	}
	begun, base := time.Now().Add(headStart), int64(b.cfg.Events)+1
	want := b.reader.received + p.events
	b.reader.fresh = func(n int64, at time.Time) {
		if i := int(n-base) / p.batch; p.counts(i) {
			arrived.record(at.Sub(begun.Add(p.due(i))))
		}
		bar.Set(int64(b.reader.received - want + p.events))
	}
	g, gctx := errgroup.WithContext(ctx)
	for i, conn := range conns {
		g.Go(func() error { return writeShare(gctx, conn, p, i, begun, base, committed, b.cfg.Patience) })
	}
	g.Go(func() error {
		return b.reader.until(gctx, func() bool { return b.reader.received >= want })
	})
	return g.Wait()
}

var errNoCommit = errors.New("no answer to a commit")

// writeShare writes each of a session's transactions when it is due, or as soon as the
// one before is committed.
func writeShare(ctx context.Context, conn *pgx.Conn, p plan, session int, begun time.Time, base int64, committed *histogram, patience time.Duration) error {
	for i := session; i < p.transactions(); i += sessions {
		due := begun.Add(p.due(i))
		if err := sleep.Until(ctx, due); err != nil {
			return err
		}
		first, last := p.span(i)
		wctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%w for %s", errNoCommit, patience))
		_, err := conn.Exec(wctx, insertName, base+int64(first), base+int64(last))
		err = because(wctx, err)
		cancel()
		if err != nil {
			return fmt.Errorf("write events: %w", err)
		}
		if p.counts(i) {
			committed.record(time.Since(due))
		}
	}
	return nil
}

// histogram is safe for concurrent use.
type histogram struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram // of microseconds; guarded by mu
}

func newHistogram() *histogram {
	return &histogram{h: hdrhistogram.New(1, maxLatency.Microseconds(), 3)}
}

func (h *histogram) record(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.h.RecordValue(min(max(d, time.Microsecond), maxLatency).Microseconds()) // within its bounds
}

func (h *histogram) latency() Latency {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := func(percent float64) time.Duration {
		return time.Duration(h.h.ValueAtPercentile(percent)) * time.Microsecond
	}
	return Latency{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: at(100)}
}
