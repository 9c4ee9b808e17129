package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// relayCommand makes the bench the relay instead: a process of its own, so that its CPU
// and memory can be told.
const relayCommand = "relay"

const (
	relayBatch = 1000
	relayPause = 100 * time.Millisecond // when there was less than a batch
)

// relay is what most teams write: it takes rows in the order of a sequence, publishes
// them, deletes them in the transaction that has locked them, and sleeps when there are
// none. It ends with SIGTERM.
func relay(ctx context.Context, args []string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	flags := flag.NewFlagSet(relayCommand, flag.ContinueOnError)
	dsn, brokers, topic := flags.String("dsn", "", ""), flags.String("brokers", "", ""), flags.String("topic", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, *dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(*brokers, ",")...), kgo.DefaultProduceTopic(*topic),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	for ctx.Err() == nil {
		n, err := relayOnce(ctx, conn, cl)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if n < relayBatch {
			select {
			case <-ctx.Done():
			case <-time.After(relayPause):
			}
		}
	}
	return nil
}

// relayOnce publishes a batch.
func relayOnce(ctx context.Context, conn *pgx.Conn, cl *kgo.Client) (n int, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // does nothing once committed
	rows, err := tx.Query(ctx, "SELECT seq, id::text, aggregateid, payload FROM outbox ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED", relayBatch)
	if err != nil {
		return 0, err
	}
	var (
		seqs    []int64
		records []*kgo.Record
		seq     int64
		id, key string
		payload []byte
	)
	_, err = pgx.ForEachRow(rows, []any{&seq, &id, &key, &payload}, func() error {
		seqs = append(seqs, seq)
		records = append(records, &kgo.Record{Key: []byte(key), Value: append([]byte(nil), payload...), Headers: []kgo.RecordHeader{{Key: "id", Value: []byte(id)}}})
		return nil
	})
	if err != nil || len(records) == 0 {
		return 0, err
	}
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, "DELETE FROM outbox WHERE seq = ANY($1)", seqs); err != nil {
		return 0, err
	}
	return len(records), tx.Commit(ctx)
}

func (b *bench) startRelay(ctx context.Context, _, topic, _ string) (runner, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start the relay: %w", err)
	}
	return startProgram(exec.CommandContext(ctx, self, relayCommand,
		"-dsn", b.relayPG.DSN(), "-brokers", strings.Join(b.kafka.Addrs(), ","), "-topic", topic), true)
}
