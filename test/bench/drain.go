package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/test/harness"
)

// runLimit bounds one run of one contender.
const runLimit = 5 * time.Minute

// sample is one run.
type sample struct {
	Wall float64 `json:"seconds"`     // from the start of the process to the last acknowledged record
	CPU  float64 `json:"cpu_seconds"` // of the process until its end
	RSS  float64 `json:"rss_mib"`     // its peak; 0: not measured
	WAL  float64 `json:"wal_mib"`     // that the slot still keeps at the end of the process
}

// drain measures how long each contender takes for a backlog.
func (b *bench) drain(ctx context.Context, w workload) error {
	const origin = `SELECT pg_create_logical_replication_slot('origin', 'pgoutput')`
	if _, err := b.conn.Exec(ctx, origin); err != nil {
		return err
	}
	begun := time.Now()
	if err := w.fill(ctx, b.conn); err != nil {
		return err
	}
	var end string
	if err := b.conn.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		return err
	}
	fmt.Printf("\n%s: %d events of %d bytes, written in %.1f s\n", w.Name, w.Events, w.Bytes, time.Since(begun).Seconds())
	contenders := b.selectedContenders()
	all := make([][]sample, len(contenders))
	for round := range b.rounds + 1 { // the first warms up, and is not counted
		for i, c := range contenders {
			if round == 0 && (w.first || c.name != walpostTCP) {
				continue
			}
			s, err := b.once(ctx, c, w, end)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if round > 0 {
				all[i] = append(all[i], s)
			}
		}
	}
	b.report.add(w, contenders, all)
	return b.dropSlot(ctx, "origin")
}

func (b *bench) once(ctx context.Context, c contender, w workload, end string) (s sample, err error) {
	slot, topic := b.name(), ""
	if c.polls {
		if err := b.fillRelay(ctx, w); err != nil {
			return s, err
		}
	} else if slot, err = b.copySlot(ctx); err != nil {
		return s, err
	}
	if c.delivers {
		if topic, err = b.createTopic(ctx, slot); err != nil {
			return s, err
		}
	}
	begun := time.Now()
	r, err := c.start(ctx, slot, topic, end)
	if err != nil {
		return s, err
	}
	if c.delivers {
		var until time.Time
		until, err = b.await(ctx, topic, int64(w.until()))
		if err == nil && c.transactions && !w.first {
			until, err = b.rest(ctx, topic)
		}
		s.Wall = until.Sub(begun).Seconds()
		if err == nil && w.first {
			_, err = b.await(ctx, topic, int64(w.Events))
		}
	}
	if err == nil && c.delivers { // what does not, ends by itself, and cannot be asked any more
		s.RSS = peakMiB(r.pid())
	}
	cpu, serr := r.stop(ctx)
	if !c.delivers {
		s.Wall = time.Since(begun).Seconds()
	}
	s.CPU = cpu.Seconds()
	if err = errors.Join(err, serr); err != nil {
		return s, fmt.Errorf("%w\n%s", err, r.log())
	}
	if c.delivers {
		err = b.verify(ctx, topic, w.Events)
	}
	if err == nil && !c.polls {
		const kept = "SELECT ($2::pg_lsn - confirmed_flush_lsn) / 1048576.0 FROM pg_replication_slots WHERE slot_name = $1"
		err = b.conn.QueryRow(ctx, kept, slot, end).Scan(&s.WAL)
		s.WAL = max(0, s.WAL)
		err = errors.Join(err, b.dropSlot(ctx, slot))
	}
	return s, err
}

const (
	// awaitInterval is the time between two looks at a topic, and so the resolution of
	// the figures.
	awaitInterval = 10 * time.Millisecond

	// restTime is how long a topic must not have grown to be at rest.
	restTime = 500 * time.Millisecond
)

// await waits until the topic has n records that are acknowledged, and returns the time.
func (b *bench) await(ctx context.Context, topic string, n int64) (time.Time, error) {
	for deadline := time.Now().Add(runLimit); ; time.Sleep(awaitInterval) {
		got, err := b.count(ctx, topic)
		now := time.Now()
		if err != nil || got >= n {
			return now, err
		}
		if now.After(deadline) {
			return now, fmt.Errorf("%d of %d records after %s", got, n, runLimit)
		}
	}
}

// rest waits until the topic has not grown for restTime, and returns when it last did.
// What is written in transactions has markers among the records: their number tells
// only that the end is near.
func (b *bench) rest(ctx context.Context, topic string) (last time.Time, err error) {
	before := int64(0)
	for last = time.Now(); time.Since(last) < restTime; time.Sleep(awaitInterval) {
		got, err := b.count(ctx, topic)
		if err != nil {
			return last, err
		}
		if got > before {
			before, last = got, time.Now()
		}
	}
	return last, nil
}

// count returns how many records of a topic a consumer of committed ones may read, and
// the markers of transactions.
func (b *bench) count(ctx context.Context, topic string) (n int64, err error) {
	ends, err := b.admin.ListCommittedOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n, err
}

// verify counts the distinct ids that a consumer of committed records sees.
func (b *bench) verify(ctx context.Context, topic string, events int) error {
	ids := make(map[string]struct{}, events)
	n := 0
	err := harness.ConsumeCommitted(ctx, b.kafka.Addrs(), []string{topic}, func(r *kgo.Record, _ int32) {
		n++
		for _, h := range r.Headers {
			if h.Key == "id" {
				ids[strings.Trim(string(h.Value), `"`)] = struct{}{}
			}
		}
	})
	if err != nil {
		return err
	}
	if len(ids) != events {
		return fmt.Errorf("%d distinct ids in %d records, want %d", len(ids), n, events)
	}
	_, err = b.admin.DeleteTopics(ctx, topic)
	return err
}

// peakMiB is the most memory that a running process has had resident.
func peakMiB(pid int) float64 { return float64(harness.PeakRSS(pid)) / (1 << 20) }

// createTopic makes a topic, and waits until it can be written to.
func (b *bench) createTopic(ctx context.Context, name string) (string, error) {
	if _, err := b.admin.CreateTopic(ctx, 12, 1, nil, name); err != nil {
		return "", err
	}
	deadline := time.Now().Add(runLimit)
	for {
		_, err := b.count(ctx, name)
		if err == nil || time.Now().After(deadline) {
			return name, err
		}
		time.Sleep(awaitInterval)
	}
}

// fillRelay gives the relay's server the backlog, in one transaction: what it polls is
// the table.
func (b *bench) fillRelay(ctx context.Context, w workload) (err error) {
	if err := b.needRelay(ctx); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, b.relayPG.DSN())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	w.beside, w.batch = 0, w.Events
	return w.fill(ctx, conn)
}

// needRelay starts the relay's server.
func (b *bench) needRelay(ctx context.Context) (err error) {
	if b.relayPG != nil {
		return nil
	}
	if b.relayPG, err = startPostgres(ctx); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, b.relayPG.DSN())
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, setup)
	return errors.Join(err, conn.Close(ctx))
}
