// Command bench measures walpost beside what everybody takes for the floor: how
// long pg_recvlogical takes to read the same slot over the same kind of
// connection, without delivering anything. It also measures the latency from
// commit to consumer at a steady rate.
//
// It starts a Postgres and an Apache Kafka of its own on the loopback address,
// alternates the contenders, prints the medians of three rounds, and ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop has nothing left to do
	}
}

// bench is the servers and settings of one run.
type bench struct {
	events, rounds int
	rate           int
	duration       time.Duration
	exactlyOnce    bool

	pg      *testenv.PostgresServer
	kafka   *testenv.KafkaServer
	conn    *pgx.Conn
	walpost string // the binary
	recv    string // pg_recvlogical
	runs    int    // names slots and topics
}

func run(ctx context.Context) (err error) {
	var b bench
	flag.IntVar(&b.events, "events", 500_000, "one-row transactions in the backlog")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds of each contender")
	flag.IntVar(&b.rate, "rate", 1000, "events per second while latency is measured")
	flag.DurationVar(&b.duration, "duration", 20*time.Second, "how long latency is measured")
	flag.BoolVar(&b.exactlyOnce, "exactly-once", false, "compare exactly-once with at-least-once instead, and measure its latency")
	flag.Parse()

	dir, err := os.MkdirTemp("", "walpost-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := b.start(ctx, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.kafka.Close(), b.pg.Close()) }()
	fmt.Printf("Postgres %s (fsync off), Apache Kafka %s, %s, %d CPUs; 300-byte payloads, acks=all, lz4, 12 partitions\n",
		b.pg.Version, testenv.KafkaVersion, runtime.Version(), runtime.NumCPU())
	if err := b.drain(ctx); err != nil {
		return err
	}
	return b.latency(ctx)
}

// start builds walpost, and starts the servers with an empty outbox.
func (b *bench) start(ctx context.Context, dir string) (err error) {
	b.walpost = filepath.Join(dir, "walpost")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.walpost, "github.com/walpost/walpost/cmd/walpost")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build walpost: %w\n%s", err, out)
	}
	if b.recv, err = findRecvlogical(); err != nil {
		return err
	}
	b.pg, err = testenv.StartPostgres(ctx, testenv.PostgresConfig{Source: testenv.Programs, Settings: map[string]string{"max_wal_size": "4GB"}})
	if err != nil {
		return err
	}
	if b.kafka, err = testenv.StartKafka(ctx, testenv.KafkaConfig{Source: testenv.Programs, Load: true, Heap: "1g"}); err != nil {
		return errors.Join(err, b.pg.Close())
	}
	if b.conn, err = pgx.Connect(ctx, b.pg.DSN()); err == nil {
		_, err = b.conn.Exec(ctx, setup)
	}
	if err == nil {
		_, err = b.conn.Exec(ctx, origin)
	}
	if err != nil {
		return errors.Join(err, b.kafka.Close(), b.pg.Close())
	}
	return nil
}

const setup = `
	CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb);
	CREATE PUBLICATION walpost FOR TABLE outbox WITH (publish = 'insert');
	CREATE PROCEDURE fill(n int) LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1..n LOOP
			INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
			VALUES ('order', 'order-' || i % 1000, 'created', jsonb_build_object('n', i, 'pad', repeat('x', 280)));
			COMMIT;
		END LOOP;
	END $$`

// origin is a slot that stays where the backlog begins.
const origin = `SELECT pg_create_logical_replication_slot('origin', 'pgoutput')`

// findRecvlogical looks where Postgres' programs are.
func findRecvlogical() (string, error) {
	if path, err := exec.LookPath("pg_recvlogical"); err == nil {
		return path, nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_recvlogical")
	if len(found) == 0 {
		return "", errors.New("pg_recvlogical is not installed")
	}
	slices.Sort(found)
	return found[len(found)-1], nil
}

// copySlot makes a slot that stands where the backlog begins.
func (b *bench) copySlot(ctx context.Context) (string, error) {
	b.runs++
	name := fmt.Sprintf("run%d", b.runs)
	_, err := b.conn.Exec(ctx, "SELECT pg_copy_logical_replication_slot('origin', $1)", name)
	return name, err
}

func (b *bench) dropSlot(ctx context.Context, name string) error {
	const query = `SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE slot_name = $1 AND active`
	if _, err := b.conn.Exec(ctx, query, name); err != nil {
		return err
	}
	_, err := b.conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", name)
	return err
}

func median(ds []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(ds))
	return s[len(s)/2]
}
