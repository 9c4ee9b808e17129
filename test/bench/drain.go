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
	servers
}

// drain measures how long each of the contenders takes for a backlog.
func (b *bench) drain(ctx context.Context, w workload, contenders []contender) error {
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
	all := make([][]sample, len(contenders))
	for round := range b.rounds + 1 { // in the first walpost warms up where it is among them; that is not counted
		for _, i := range order(w.Name, round, len(contenders)) {
			c := contenders[i]
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
	topics := w.topicNames(slot)
	if c.delivers {
		if topic, err = b.createTopics(ctx, w, slot); err != nil {
			return s, err
		}
	}
	begun, meter := time.Now(), b.startMeter(c.polls)
	r, err := c.start(ctx, slot, topic, end)
	if err != nil {
		return s, err
	}
	if c.delivers {
		var until time.Time
		until, err = b.await(ctx, int64(w.until()), topics...)
		if err == nil && c.transactions && !w.first {
			until, err = b.rest(ctx, topics...)
		}
		s.Wall = until.Sub(begun).Seconds()
		if err == nil && w.first {
			_, err = b.await(ctx, int64(w.Events), topics...)
		}
	}
	if err == nil && c.delivers { // what does not, ends by itself, and cannot be asked any more
		s.RSS = peakMiB(r.pid())
	}
	if err == nil && c.delivers && !c.polls {
		s.WAL, err = b.unconfirmed(ctx, slot, end)
	}
	cpu, serr := r.stop(ctx)
	if !c.delivers {
		s.Wall = time.Since(begun).Seconds()
	}
	s.CPU, s.servers = cpu.Seconds(), meter.read()
	if err = errors.Join(err, serr); err != nil {
		return s, fmt.Errorf("%w\n%s", err, r.log())
	}
	if c.delivers {
		_, err = b.verify(ctx, w.Events, topics...)
	}
	if err == nil && c.polls {
		err = b.settleRelay(ctx)
	}
	if err == nil && !c.polls {
		if !c.delivers {
			s.WAL, err = b.unconfirmed(ctx, slot, end)
		}
		err = errors.Join(err, b.dropSlot(ctx, slot))
	}
	return s, err
}

// unconfirmed is how much WAL of the backlog a slot still keeps, in MiB.
func (b *bench) unconfirmed(ctx context.Context, slot, end string) (mib float64, err error) {
	const kept = "SELECT ($2::pg_lsn - confirmed_flush_lsn) / 1048576.0 FROM pg_replication_slots WHERE slot_name = $1"
	err = b.conn.QueryRow(ctx, kept, slot, end).Scan(&mib)
	return max(0, mib), err
}

const (
	// awaitInterval is the time between two looks at a topic, and so the resolution of
	// the figures.
	awaitInterval = 10 * time.Millisecond

	// restTime is how long a topic must not have grown to be at rest.
	restTime = 500 * time.Millisecond
)

// await waits until the topics have n records that are acknowledged, and returns the time.
func (b *bench) await(ctx context.Context, n int64, topics ...string) (time.Time, error) {
	interval := awaitInterval * time.Duration(1+len(topics)/10) // to ask is work for the broker
	for deadline := time.Now().Add(runLimit); ; time.Sleep(interval) {
		got, err := b.count(ctx, topics...) // a new topic is known to the broker a little later
		now := time.Now()
		if err == nil && got >= n || ctx.Err() != nil {
			return now, err
		}
		if now.After(deadline) {
			return now, errors.Join(err, fmt.Errorf("%d of %d records after %s", got, n, runLimit))
		}
	}
}

// rest waits until the topics have not grown for restTime, and returns when it last did.
// What is written in transactions has markers among the records: their number tells
// only that the end is near.
func (b *bench) rest(ctx context.Context, topics ...string) (last time.Time, err error) {
	before := int64(0)
	for last = time.Now(); time.Since(last) < restTime; time.Sleep(awaitInterval) {
		got, err := b.count(ctx, topics...)
		if err != nil {
			return last, err
		}
		if got > before {
			before, last = got, time.Now()
		}
	}
	return last, nil
}

// count returns how many records of the topics a consumer of committed ones may read, and
// the markers of transactions.
func (b *bench) count(ctx context.Context, topics ...string) (n int64, err error) {
	ends, err := b.admin.ListCommittedOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n, err
}

// verify counts the distinct ids that a consumer of committed records sees, returns how
// many records there are, and deletes the topics.
func (b *bench) verify(ctx context.Context, events int, topics ...string) (n int, err error) {
	ids := make(map[string]struct{}, events)
	err = harness.ConsumeCommitted(ctx, b.kafka.Addrs(), topics, func(r *kgo.Record, _ int32) {
		n++
		ids[eventID(r)] = struct{}{}
	})
	if err != nil {
		return n, err
	}
	if delete(ids, ""); len(ids) != events {
		return n, fmt.Errorf("%d distinct ids in %d records, want %d", len(ids), n, events)
	}
	_, err = b.admin.DeleteTopics(ctx, topics...)
	return n, err
}

// eventID is the id of a record's event, or "".
func eventID(r *kgo.Record) string {
	for _, h := range r.Headers {
		if h.Key == "id" {
			return strings.Trim(string(h.Value), `"`)
		}
	}
	return ""
}

// peakMiB is the most memory that a running process has had resident.
func peakMiB(pid int) float64 { return float64(harness.PeakRSS(pid)) / (1 << 20) }

// createTopics makes the topics of a run, waits until they can be written to, and returns
// what walpost calls them.
func (b *bench) createTopics(ctx context.Context, w workload, name string) (string, error) {
	partitions, names := int32(12), w.topicNames(name)
	if w.topics > 0 {
		name, partitions = name+"-${routedByValue}", 1
	}
	if _, err := b.admin.CreateTopics(ctx, partitions, 1, nil, names...); err != nil {
		return "", err
	}
	deadline := time.Now().Add(runLimit)
	for {
		_, err := b.count(ctx, names...)
		if err == nil || time.Now().After(deadline) {
			return name, err
		}
		time.Sleep(awaitInterval)
	}
}

// fillRelay gives the relay's server the backlog, and the rows beside it. The events come
// in as few transactions as that takes: what is polled is the table.
func (b *bench) fillRelay(ctx context.Context, w workload) (err error) {
	if err := b.needRelay(ctx); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, b.relayPG.DSN())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	w.batch = w.Events
	return w.fill(ctx, conn)
}

// settleRelay has the relay's server do at once what its run has left for later.
func (b *bench) settleRelay(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, b.relayPG.DSN())
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "TRUNCATE outbox, other")
	if err == nil {
		_, err = conn.Exec(ctx, "CHECKPOINT")
	}
	return errors.Join(err, conn.Close(ctx))
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
