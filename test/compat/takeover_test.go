package compat

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

const orders = "outbox.event.order"

// handover is a table that is written to all the time, and what publishes it.
type handover struct {
	t       *testing.T
	dsn     string
	conn    *pgx.Conn
	brokers []string
	written atomic.Int64
	env     []string
}

// write writes in transactions of one to 500 rows until it is stopped.
func (h *handover) write() (stop func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan error, 1)
	go func() {
		conn, err := pgx.Connect(ctx, h.dsn)
		if err != nil {
			done <- err
			return
		}
		defer conn.Close(context.Background()) //nolint:errcheck // the test is over
		for n := int64(1); ctx.Err() == nil; {
			for _, part := range []struct {
				shape harness.Shape
				rows  int64
			}{{harness.OneRow, 200}, {harness.Rows, 2000}} {
				if err := harness.Fill(context.WithoutCancel(ctx), conn, part.shape, n, n+part.rows-1); err != nil {
					done <- err
					return
				}
				n += part.rows
				h.written.Store(n - 1)
			}
			time.Sleep(200 * time.Millisecond) // Debezium must be able to follow
		}
		done <- nil
	}()
	return func() {
		cancel()
		must(h.t, <-done)
	}
}

// published waits until n more events are in Kafka than now.
func (h *handover) published(n int64) {
	h.t.Helper()
	before, err := harness.Count(h.t.Context(), h.brokers, orders)
	must(h.t, err)
	h.until("more events in Kafka", func() bool {
		now, err := harness.Count(h.t.Context(), h.brokers, orders)
		return err == nil && now >= before+n
	})
}

func (h *handover) until(what string, ok func() bool) {
	h.t.Helper()
	harness.Eventually(h.t, limit, what, ok)
}

func (h *handover) walpost(args ...string) *harness.Process {
	h.t.Helper()
	path, err := harness.Binary(binDir)
	must(h.t, err)
	return harness.Start(h.t, path, h.env, args...)
}

func (h *handover) debezium() *testenv.ConnectServer {
	h.t.Helper()
	s, err := testenv.StartConnect(h.t.Context(), testenv.ConnectConfig{
		Brokers: h.brokers, Heap: "512m",
		Connector: testenv.DebeziumOutbox(h.conn.Config(), map[string]string{"publication.name": "pub", "slot.name": "debezium", "extended.headers.enabled": "false"}),
	})
	must(h.t, err)
	h.t.Cleanup(func() { _ = s.Close() })
	must(h.t, s.Wait(h.t.Context()))
	return s
}

// Walpost goes on where Debezium was stopped in mid-stream, and Debezium where walpost was:
// nothing is lost, and nothing published twice.
func TestTakeOver(t *testing.T) {
	if os.Getenv(modeVariable) == "" {
		t.Skipf("%s is not set", modeVariable)
	}
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{})
	conn, err := pgx.Connect(t.Context(), pg.DSN())
	must(t, err)
	defer conn.Close(context.Background()) //nolint:errcheck // the test is over
	must(t, harness.Setup(t.Context(), conn, "pub"))
	h := &handover{t: t, dsn: pg.DSN(), conn: conn, brokers: envtest.NewKafka(t, testenv.KafkaConfig{Load: true}).Addrs()}
	created, err := envtest.Admin(t, h.brokers).CreateTopics(t.Context(), partitions, 1, nil, orders)
	must(t, err)
	must(t, created.Error())
	exec(t, conn, "SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')")
	admin := harness.FreeAddr(t)
	h.env = []string{
		"WALPOST_POSTGRES_DSN=" + h.dsn, "WALPOST_POSTGRES_SLOT=debezium", "WALPOST_POSTGRES_PUBLICATION=pub",
		"WALPOST_KAFKA_BROKERS=" + strings.Join(h.brokers, ","), "WALPOST_ADMIN_LISTEN=" + admin,
	}

	s := h.debezium()
	stop := h.write()
	h.published(20_000)
	_, err = s.Stop(t.Context())
	must(t, err)
	first := h.walpost("init", "--take-over", "debezium")
	if code, err := first.Wait(t.Context()); err != nil || code != 0 {
		t.Fatalf("init --take-over: exit %d, %v\n%s", code, err, first.Log())
	}
	fmt.Printf("FIGURES take-over from Debezium: %s", last(first.Log()))
	run := h.walpost("run")
	h.published(20_000)
	run.Signal(syscall.SIGTERM)
	if code, err := run.Wait(t.Context()); err != nil || code != 0 {
		t.Fatalf("run: exit %d, %v", code, err)
	}
	h.check("from Debezium to walpost")
	h.debezium() // without its offsets: from where the slot is
	h.published(20_000)
	stop()
	h.until("all events in Kafka", func() bool {
		n, err := harness.Count(t.Context(), h.brokers, orders)
		return err == nil && n >= h.written.Load()
	})
	time.Sleep(time.Second) // for what must not come
	h.check("and back")
	ledger, err := harness.ReadLedger(t.Context(), conn, "outbox", "payload::text")
	must(t, err)
	r, err := harness.Check(t.Context(), h.brokers, ledger, orders)
	must(t, err)
	fmt.Printf("FIGURES take-over from Debezium in mid-stream, and back: %s\n", r)
	if !r.OK() || r.Duplicated > 0 {
		t.Errorf("%s", r)
	}
}

// check wants nothing published twice so far.
func (h *handover) check(what string) {
	h.t.Helper()
	seen, repeats := map[string]bool{}, 0
	must(h.t, harness.Consume(h.t.Context(), h.brokers, []string{orders}, func(r *kgo.Record, _ int32) {
		id := string(r.Headers[0].Value)
		if seen[id] {
			repeats++
		}
		seen[id] = true
	}))
	fmt.Printf("FIGURES take-over, %s: %d events in Kafka, %d repeats\n", what, len(seen), repeats)
	if repeats > 0 {
		h.t.Errorf("%s: %d repeats", what, repeats)
	}
}

// last returns the last line of a log.
func last(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return lines[len(lines)-1] + "\n"
}
