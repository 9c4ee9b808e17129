package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/test/harness"
)

// load is events per second over time.
type load struct {
	name  string
	rate  func(at time.Duration) float64
	batch int // rows in a transaction
	total time.Duration
	cold  time.Duration // what was due before is not counted
	own   []string      // settings of walpost's; if not nil only walpost runs
	pulls bool          // with them it must pull
	warm  int           // events per second before that
}

// connecting is how long the writers and the consumer may take to be there.
const connecting = time.Second

func steadily(n int) func(time.Duration) float64 {
	return func(time.Duration) float64 { return float64(n) }
}

// ramp goes from 100 to high events per second and back.
func ramp(high float64, total time.Duration) func(time.Duration) float64 {
	const low = 100
	return func(at time.Duration) float64 {
		up := min(float64(at), float64(total-at)) / (float64(total) / 2)
		return low + (high-low)*up
	}
}

// pullSettings make walpost leave the stream at a backlog that the ramp makes here, and
// look for one each second.
var pullSettings = []string{"--postgres.pull_above=16KiB", "--postgres.status_interval=1s"}

// latencies measures each contender at each rate.
func (b *bench) latencies(ctx context.Context) error {
	if err := b.warmUp(ctx); err != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	for rate := range strings.SplitSeq(b.rates, ",") {
		l := load{name: rate + "/s", total: b.duration, cold: connecting, batch: 1, warm: 5000}
		switch n, err := strconv.Atoi(rate); {
		case rate == "":
			continue
		case rate == rateRamp:
			l.name, l.rate, l.batch = "100 to 30,000/s and back", ramp(30_000, b.duration), 10
		case rate == ratePull:
			l.name, l.rate, l.batch, l.own, l.pulls = "100 to 30,000/s and back, with pulls", ramp(30_000, b.duration), 10, pullSettings, true
		case err != nil:
			return fmt.Errorf("-rates: %w", err)
		default:
			l.rate, l.warm = steadily(n), n
			if n > 10_000 {
				l.batch = 10 // single rows are more than the writers can commit here
			}
		}
		if err := b.latenciesAt(ctx, l); err != nil {
			return fmt.Errorf("latency at %s: %w", l.name, err)
		}
	}
	return nil
}

// warmUp has the broker compile what many small requests need, which it does on the cores that
// all share, and which the first contender would pay for.
func (b *bench) warmUp(ctx context.Context) error {
	if b.rates == "" {
		return nil
	}
	for _, c := range b.selectedContenders() {
		if c.latency {
			const rate = 5000
			_, err := b.latency(ctx, c, load{name: "warm-up", rate: steadily(rate), total: 30 * time.Second, batch: 1, warm: rate})
			return err
		}
	}
	return nil
}

// latenciesAt measures the contenders in turn, in so many rounds.
func (b *bench) latenciesAt(ctx context.Context, l load) error {
	var contenders []contender
	for _, c := range b.selectedContenders() {
		if l.own != nil && c.with == nil {
			continue
		}
		if l.own != nil {
			c.start = c.with(l.own...)
		}
		if c.latency {
			contenders = append(contenders, c)
		}
	}
	all := make([][]percentiles, len(contenders))
	for round := range b.rounds {
		for _, i := range order(l.name, round, len(contenders)) {
			c := contenders[i]
			p, err := b.latency(ctx, c, l)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			all[i] = append(all[i], p)
		}
	}
	var err error
	for i, c := range contenders {
		b.report.addLatency(l, c, all[i])
		if l.pulls && slices.ContainsFunc(all[i], func(p percentiles) bool { return p.Pulls == 0 }) {
			err = errors.Join(err, fmt.Errorf("%s: never pulled in a round, so that a switch was not measured", c.name))
		}
	}
	return err
}

// percentiles are in milliseconds.
type percentiles struct {
	Events int64   `json:"events"` // that are not cold
	IDs    int     `json:"distinct_ids,omitempty"`
	P50    float64 `json:"p50_ms"`
	P90    float64 `json:"p90_ms"`
	P99    float64 `json:"p99_ms"`
	P999   float64 `json:"p999_ms"`
	Max    float64 `json:"max_ms"`
	Last   float64 `json:"last_ms"` // the median of the last twentieth: growing lag shows here
	CPU    float64 `json:"cpu_seconds"`
	RSS    float64 `json:"rss_mib"`
	Pulls  float64 `json:"pulls,omitempty"` // how often walpost has left the stream to pull

	// From when a commit was due until the writer had its answer: what of the above is
	// no contender's doing.
	WriterP50 float64 `json:"writers_p50_ms"`
	WriterP99 float64 `json:"writers_p99_ms"`
	servers
}

// latency writes on schedule, whatever becomes of it, and measures from the moment at
// which each event was due to be written until the consumer has it: a stall counts for
// every event that was due in it.
func (b *bench) latency(ctx context.Context, c contender, l load) (p percentiles, err error) {
	slot, dsn := b.name(), b.pg.SocketDSN() // the cheapest for the writers, whose cost is nobody's
	if c.polls {
		if err := b.needRelay(ctx); err != nil {
			return p, err
		}
		dsn = b.relayPG.SocketDSN()
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, "TRUNCATE outbox, other"); err != nil {
		return p, err
	}
	if !c.polls {
		if _, err := conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot); err != nil {
			return p, err
		}
		defer func() { err = errors.Join(err, b.dropSlot(ctx, slot)) }()
	}
	topic, err := b.createTopics(ctx, workload{}, slot)
	if err != nil {
		return p, err
	}
	r, err := c.start(ctx, slot, topic, "")
	if err != nil {
		return p, err
	}
	const first = 10 // events that show that it is up
	if _, err = conn.Exec(ctx, fmt.Sprintf("CALL fill(%d, 1, 300, 0)", first)); err == nil {
		_, err = b.await(ctx, first, topic)
	}
	var warm percentiles
	if err == nil {
		warm, err = b.steady(ctx, dsn, topic, load{rate: steadily(l.warm), total: b.warm, batch: l.batch})
	}
	meter, before := b.startMeter(c.polls), harness.TreeCPU(r.pid())
	if err == nil {
		p, err = b.steady(ctx, dsn, topic, l)
	}
	if err == nil {
		p.RSS = peakMiB(r.pid())
	}
	cpu, serr := r.stop(ctx)
	p.CPU, p.servers = (cpu - before).Seconds(), meter.read()
	p.Pulls = float64(strings.Count(r.log(), "pulling a backlog"))
	if err = errors.Join(err, serr); err != nil {
		return p, fmt.Errorf("%w\n%s", err, r.log())
	}
	want := first + warm.IDs + p.IDs
	if n, err := b.verify(ctx, want, topic); err != nil || n != want { // after its end, none comes late
		return p, errors.Join(err, fmt.Errorf("%d records of %d events", n, want))
	}
	return p, nil
}

// steady writes and consumes.
func (b *bench) steady(ctx context.Context, dsn, topic string, l load) (p percentiles, err error) {
	schedule := l.schedule()
	ends, err := b.admin.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return p, err
	}
	begun := time.Now().Add(100 * time.Millisecond)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		p, err = b.consume(gctx, ends.KOffsets(), begun, l, len(schedule)*l.batch)
		return err
	})
	writers := make([]*hdrhistogram.Histogram, sessions)
	for s := range writers {
		writers[s] = newHistogram()
		g.Go(func() error { return writeShare(gctx, dsn, begun, schedule, s, l, writers[s]) })
	}
	if err := g.Wait(); err != nil {
		return p, err
	}
	for _, w := range writers[1:] {
		writers[0].Merge(w)
	}
	p.WriterP50, p.WriterP99 = quantile(writers[0], 50), quantile(writers[0], 99)
	return p, nil
}

// newHistogram is of microseconds.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, runLimit.Microseconds(), 3)
}

// quantile returns milliseconds.
func quantile(h *hdrhistogram.Histogram, q float64) float64 {
	return float64(h.ValueAtQuantile(q)) / 1000
}

// schedule is when each transaction is due.
func (l load) schedule() []time.Duration {
	var due []time.Duration
	for at := time.Duration(0); at < l.total; {
		due = append(due, at)
		at += time.Duration(float64(l.batch) / l.rate(at) * float64(time.Second))
	}
	return due
}

// consume returns the percentiles of what is not cold, when all events have arrived.
func (b *bench) consume(ctx context.Context, from map[string]map[int32]kgo.Offset, begun time.Time, l load, total int) (p percentiles, err error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka.Addrs()...), kgo.ConsumePartitions(from), kgo.FetchMaxWait(time.Second), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return p, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, l.total+runLimit)
	defer cancel()
	all, last := newHistogram(), newHistogram()
	ids := make(map[string]struct{}, total)
	for err == nil && len(ids) < total {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return p, fmt.Errorf("%d of %d events arrived: %w", len(ids), total, err)
		}
		now := time.Now()
		fetches.EachRecord(func(r *kgo.Record) {
			due, ok := dueOf(r.Value)
			if !ok {
				return // one of the first
			}
			id := eventID(r)
			if _, again := ids[id]; again || id == "" {
				err = errors.Join(err, fmt.Errorf("id %q at %s/%d@%d has come before, or is none", id, r.Topic, r.Partition, r.Offset))
				return
			}
			ids[id] = struct{}{}
			if due.Sub(begun) < l.cold {
				return
			}
			late := now.Sub(due).Microseconds()
			err = errors.Join(err, all.RecordValue(late))
			if due.Sub(begun) > l.total-l.total/20 {
				err = errors.Join(err, last.RecordValue(late))
			}
		})
	}
	return percentiles{
		Events: all.TotalCount(), IDs: len(ids), P50: quantile(all, 50), P90: quantile(all, 90), P99: quantile(all, 99), P999: quantile(all, 99.9), Max: quantile(all, 100), Last: quantile(last, 50),
	}, err
}
