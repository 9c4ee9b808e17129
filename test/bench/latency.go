package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// sessions is how many connections write while latency is measured.
const sessions = 4

// latency writes at a steady rate, whatever becomes of it, and measures from the
// moment at which each event was due to be written until the consumer has it: a
// stall counts for every event that was due in it.
func (b *bench) latency(ctx context.Context) error {
	b.runs++
	slot := fmt.Sprintf("run%d", b.runs)
	topic, err := b.createTopic(ctx, slot)
	if err != nil {
		return err
	}
	var args []string
	if b.exactlyOnce {
		args = append(args, exactlyOnce)
	}
	cmd := b.command(ctx, b.pg.DSN(), slot, topic, args...)
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	total := b.rate * int(b.duration/time.Second)
	var all []time.Duration
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		all, err = b.consume(gctx, topic, total)
		return err
	})
	g.Go(func() error { return b.write(gctx, slot, total) })
	if err := g.Wait(); err != nil {
		return err
	}
	all = all[len(all)/5:] // what came while everything was still cold
	slices.Sort(all)
	at := func(q float64) time.Duration { return all[int(q*float64(len(all)-1))] }
	fmt.Printf("FIGURES commit to consumer at %d events/s over TCP, %d events: p50 %.2f ms, p90 %.2f ms, p99 %.2f ms, p99.9 %.2f ms (aim: p50 below 5 ms)\n",
		b.rate, len(all), ms(at(0.5)), ms(at(0.9)), ms(at(0.99)), ms(at(0.999)))
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// write waits until the slot streams, and then inserts on schedule.
func (b *bench) write(ctx context.Context, slot string, total int) error {
	for active := false; !active; {
		time.Sleep(50 * time.Millisecond) // until walpost has come up
		const query = "SELECT coalesce((SELECT active FROM pg_replication_slots WHERE slot_name = $1), false)"
		if err := b.conn.QueryRow(ctx, query, slot).Scan(&active); err != nil {
			return err
		}
	}
	begun := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for s := range sessions {
		g.Go(func() error { return b.writeShare(gctx, begun, s, total) })
	}
	return g.Wait()
}

func (b *bench) writeShare(ctx context.Context, begun time.Time, session, total int) error {
	conn, err := pgx.Connect(ctx, b.pg.DSN())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	const insert = `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', $1, 'created', $2)`
	for n := session; n < total; n += sessions {
		due := begun.Add(time.Duration(n) * time.Second / time.Duration(b.rate))
		time.Sleep(time.Until(due))
		payload := fmt.Sprintf(`{"due": %d, "pad": "%0280d"}`, due.UnixNano(), 0)
		if _, err := conn.Exec(ctx, insert, "order-"+strconv.Itoa(n%1000), payload); err != nil {
			return err
		}
	}
	return nil
}

// consume returns the latencies in the order of arrival.
func (b *bench) consume(ctx context.Context, topic string, total int) ([]time.Duration, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka.Addrs()...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(time.Second), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, b.duration+time.Minute)
	defer cancel()
	var all []time.Duration
	for len(all) < total {
		fetches := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%d of %d records arrived: %w", len(all), total, err)
		}
		now := time.Now()
		fetches.EachRecord(func(r *kgo.Record) {
			var due int64
			if _, err := fmt.Sscanf(string(r.Value), `{"due": %d`, &due); err == nil {
				all = append(all, now.Sub(time.Unix(0, due)))
			}
		})
	}
	return all, nil
}

func (b *bench) createTopic(ctx context.Context, name string) (string, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka.Addrs()...))
	if err != nil {
		return "", err
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).CreateTopic(ctx, 12, 1, nil, name)
	return name, err
}
