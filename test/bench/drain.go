package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// contender reads the backlog once.
type contender struct {
	name string
	dsn  string
	run  func(ctx context.Context, dsn, slot, end string) (result, error)
}

type result struct{ wall, cpu time.Duration }

// drain measures how long each contender takes for the backlog.
func (b *bench) drain(ctx context.Context) error {
	begun := time.Now()
	if _, err := b.conn.Exec(ctx, fmt.Sprintf("CALL fill(%d)", b.events)); err != nil {
		return err
	}
	var end string
	if err := b.conn.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		return err
	}
	fmt.Printf("backlog of %d one-row transactions, written in %.1f s\n", b.events, time.Since(begun).Seconds())
	contenders := []contender{
		{"pg_recvlogical, TCP", b.pg.DSN(), b.recvlogical},
		{"walpost, TCP", b.pg.DSN(), b.publish},
		{"pg_recvlogical, Unix socket", b.pg.SocketDSN(), b.recvlogical},
		{"walpost, Unix socket", b.pg.SocketDSN(), b.publish},
	}
	if b.exactlyOnce {
		contenders = []contender{{"at least once, TCP", b.pg.DSN(), b.publish}, {"exactly once, TCP", b.pg.DSN(), b.publishExactly}}
	}
	if _, err := b.once(ctx, contenders[1], end); err != nil { // warms the broker up
		return fmt.Errorf("warm up: %w", err)
	}
	walls, cpus := make([][]time.Duration, len(contenders)), make([][]time.Duration, len(contenders))
	for range b.rounds {
		for i, c := range contenders {
			r, err := b.once(ctx, c, end)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			walls[i], cpus[i] = append(walls[i], r.wall), append(cpus[i], r.cpu)
		}
	}
	fmt.Printf("\n%-30s %10s %8s   %s\n", "drain", "median", "CPU", "rounds")
	for i, c := range contenders {
		fmt.Printf("%-30s %8.2f s %6.1f s   %v\n", c.name, median(walls[i]).Seconds(), median(cpus[i]).Seconds(), walls[i])
	}
	if b.exactlyOnce {
		fmt.Printf("\nFIGURES exactly once / at least once: %.2f (aim: at most 1.25)\n", median(walls[1]).Seconds()/median(walls[0]).Seconds())
		return nil
	}
	fmt.Printf("\nFIGURES walpost / pg_recvlogical: TCP %.2f, Unix socket %.2f (aim: at most 1.30)\n",
		median(walls[1]).Seconds()/median(walls[0]).Seconds(), median(walls[3]).Seconds()/median(walls[2]).Seconds())
	return nil
}

func (b *bench) once(ctx context.Context, c contender, end string) (result, error) {
	slot, err := b.copySlot(ctx)
	if err != nil {
		return result{}, err
	}
	r, err := c.run(ctx, c.dsn, slot, end)
	if err != nil {
		return result{}, err
	}
	return r, b.dropSlot(ctx, slot)
}

// recvlogical reads the slot with pg_recvlogical, and throws away what it reads.
func (b *bench) recvlogical(ctx context.Context, dsn, slot, end string) (result, error) {
	cmd := exec.CommandContext(ctx, b.recv, "-d", dsn, "-S", slot, "--start", "--no-loop", "-E", end, "-f", "/dev/null",
		"-o", "proto_version=1", "-o", "publication_names=walpost")
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("%w\n%s", err, out)
	}
	return result{time.Since(begun), cpuTime(cmd)}, nil
}

func cpuTime(cmd *exec.Cmd) time.Duration {
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

func (b *bench) publish(ctx context.Context, dsn, slot, _ string) (result, error) {
	return b.publishWith(ctx, dsn, slot)
}

// publishExactly is publish with exactly-once. The markers of the transactions count
// as records: they are one in a thousand.
func (b *bench) publishExactly(ctx context.Context, dsn, slot, _ string) (result, error) {
	return b.publishWith(ctx, dsn, slot, exactlyOnce)
}

const exactlyOnce = "--delivery.guarantee=exactly-once"

// publishWith runs walpost from its start to the last acknowledged record.
func (b *bench) publishWith(ctx context.Context, dsn, slot string, args ...string) (result, error) {
	topic, err := b.createTopic(ctx, slot)
	if err != nil {
		return result{}, err
	}
	cmd := b.command(ctx, dsn, slot, topic, args...)
	var log strings.Builder
	cmd.Stderr = &log
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	for n := int64(0); n < int64(b.events); {
		if time.Since(begun) > 5*time.Minute {
			_ = cmd.Process.Kill()
			return result{}, fmt.Errorf("%d of %d records after 5 minutes\n%s", n, b.events, log.String())
		}
		time.Sleep(20 * time.Millisecond) // the resolution of the figure
		if n, err = harness.Count(ctx, b.kafka.Addrs(), topic); err != nil {
			return result{}, err
		}
	}
	wall := time.Since(begun)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return result{}, err
	}
	if err := cmd.Wait(); err != nil {
		return result{}, fmt.Errorf("%w\n%s", err, log.String())
	}
	return result{wall, cpuTime(cmd)}, nil
}

func (b *bench) command(ctx context.Context, dsn, slot, topic string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, b.walpost, append([]string{
		"run", "--dsn", dsn, "--slot", slot, "--brokers", strings.Join(b.kafka.Addrs(), ","),
		"--outbox.topic", topic, "--admin.listen", "", "--log.level", "warn",
	}, args...)...)
}
