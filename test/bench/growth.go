package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// growth is how the cost of a backlog grows with what is in it, one thing at a time.
func growth() []workload {
	var all []workload
	for _, bytes := range []int{100, 300, 1000, 4000, 16_000} {
		all = append(all, workload{Name: fmt.Sprintf("payloads of %d bytes", bytes), Events: min(200_000, 600_000_000/bytes), Bytes: bytes, batch: 100})
	}
	for _, batch := range []int{1, 10, 100, 1000, 20_000, 200_000} {
		all = append(all, workload{Name: fmt.Sprintf("%d rows in a transaction", batch), Events: 200_000, Bytes: 300, batch: batch})
	}
	for _, topics := range []int{10, 100, 1000} {
		all = append(all, workload{Name: fmt.Sprintf("%d topics", topics), Events: 200_000, Bytes: 300, batch: 100, topics: topics})
	}
	for _, beside := range []int{0, 1_000_000, 2_000_000, 4_000_000} {
		all = append(all, workload{Name: fmt.Sprintf("beside %d unrelated rows", beside), Events: 100_000, Bytes: 300, batch: 1, beside: beside})
	}
	return all
}

// grow measures what growth lists, what brokers that are far away cost, and what shards bring.
func (b *bench) grow(ctx context.Context) error {
	if b.settings.contenders == "" {
		b.settings.contenders = walpostTCP + "," + floorTCP
	}
	for _, w := range growth() {
		if selected(b.workloads, w.Name) {
			if err := b.drain(ctx, w.scaled(b.scale), b.selectedContenders()); err != nil {
				return fmt.Errorf("%s: %w", w.Name, err)
			}
		}
	}
	if selected(b.workloads, growthAway) {
		if err := b.away(ctx); err != nil {
			return fmt.Errorf("brokers away: %w", err)
		}
	}
	if !selected(b.workloads, growthShards) {
		return nil
	}
	for _, shards := range []int{1, 2, 3} {
		if err := b.shards(ctx, shards); err != nil {
			return fmt.Errorf("%d shards: %w", shards, err)
		}
	}
	return nil
}

// shards measures a backlog that so many instances share.
func (b *bench) shards(ctx context.Context, n int) error {
	w := workload{Name: fmt.Sprintf("%d shards", n), Events: 500_000, Bytes: 300, batch: 1}.scaled(b.scale)
	var all []sample
	for range b.rounds {
		s, err := b.sharded(ctx, w, n)
		if err != nil {
			return err
		}
		all = append(all, s)
	}
	fmt.Printf("\n%s: %d events of %d bytes\n", w.Name, w.Events, w.Bytes)
	b.report.add(w, []contender{{name: walpostTCP}}, [][]sample{all})
	return nil
}

func (b *bench) sharded(ctx context.Context, w workload, n int) (s sample, err error) {
	name := b.name()
	topic, err := b.createTopics(ctx, w, name)
	if err != nil {
		return s, err
	}
	pub := "--postgres.publication=" + name
	slot := "--postgres.slot=" + name
	init := exec.CommandContext(ctx, b.walpost, "init", "--no-table", "--shards", fmt.Sprint(n), "--dsn", b.pg.DSN(), pub, slot)
	if out, err := init.CombinedOutput(); err != nil {
		return s, fmt.Errorf("init: %w\n%s", err, out)
	}
	if err := w.fill(ctx, b.conn); err != nil {
		return s, err
	}
	begun, meter := time.Now(), b.startMeter(false)
	var running []runner
	for i := range n {
		start := b.startWalpost(b.pg.DSN(), pub, fmt.Sprintf("--postgres.shard=%d/%d", i, n))
		r, err := start(ctx, name, topic, "")
		if err != nil {
			return s, err
		}
		running = append(running, r)
	}
	until, err := b.await(ctx, int64(w.Events), topic)
	s.Wall = until.Sub(begun).Seconds()
	var logs strings.Builder
	for _, r := range running {
		s.RSS += peakMiB(r.pid())
		cpu, serr := r.stop(ctx)
		s.CPU += cpu.Seconds()
		err = errors.Join(err, serr)
		logs.WriteString(r.log())
	}
	s.servers = meter.read()
	if err != nil {
		return s, fmt.Errorf("%w\n%s", err, logs.String())
	}
	for i := range n {
		if err := b.dropSlot(ctx, fmt.Sprintf("%s_%d_of_%d", name, i, n)); err != nil {
			return s, err
		}
	}
	_, err = b.verify(ctx, w.Events, topic)
	return s, err
}

// topicNames are the topics of a run, whose events say which.
func (w workload) topicNames(topic string) []string {
	if w.topics == 0 {
		return []string{topic}
	}
	names := make([]string, w.topics)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", topic, i)
	}
	return names
}
