// Package examples_test runs the example programs as a user would.
package examples_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/outbox"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }

const (
	orders = 7
	topic  = "outbox.event.order"
)

const createOutbox = `CREATE TABLE outbox (
  id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
  type varchar(255) NOT NULL, payload jsonb)`

// The producer's events are delivered twice, as after a crash of the service
// between, and the consumer adds each up once.
func TestExamples(t *testing.T) {
	shop, shopDSN := database(t)
	_, billingDSN := database(t)
	kafka := envtest.FakeKafka(t, kfake.SeedTopics(3, topic))
	brokers := kafka.ListenAddrs()

	if _, err := shop.Exec(t.Context(), createOutbox); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), build(t, "producer"), "-dsn", shopDSN, "-orders", fmt.Sprint(orders)).CombinedOutput()
	if err != nil {
		t.Fatalf("producer: %v\n%s", err, out)
	}
	if got := strings.Count(string(out), "placed\n"); got != orders {
		t.Errorf("producer placed %d orders, want %d:\n%s", got, orders, out)
	}
	events := readOutbox(t, shop)
	deliver(t, brokers, events)
	deliver(t, brokers, events)

	consumer := start(t, build(t, "consumer"), "-dsn", billingDSN, "-brokers", strings.Join(brokers, ","))
	added, repeated := 0, 0
	for range 2 * orders {
		line := consumer.line(t)
		added += count(strings.HasSuffix(line, " added"))
		repeated += count(strings.HasSuffix(line, " was added before"))
	}
	consumer.stop(t)
	if added != orders || repeated != orders {
		t.Errorf("consumer added %d and skipped %d, want %d of each", added, repeated, orders)
	}
	checkSums(t, billingDSN)
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func database(t *testing.T) (*pgx.Conn, string) {
	db := envtest.NewDatabase(t)
	return db.Connect(t), db.DSN
}

// build returns the path of an example's binary.
func build(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./"+name).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// readOutbox returns the events as records.
func readOutbox(t *testing.T, shop *pgx.Conn) []*kgo.Record {
	t.Helper()
	rows, err := shop.Query(t.Context(), "SELECT id::text, aggregatetype, aggregateid, payload::text FROM outbox ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	events, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*kgo.Record, error) {
		var id, route, key, payload string
		err := row.Scan(&id, &route, &key, &payload)
		return &kgo.Record{
			Topic: "outbox.event." + route, Key: []byte(key), Value: []byte(payload),
			Headers: []kgo.RecordHeader{{Key: outbox.HeaderID, Value: []byte(id)}},
		}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != orders {
		t.Fatalf("%d events in the outbox, want %d", len(events), orders)
	}
	return events
}

func deliver(t *testing.T, brokers []string, events []*kgo.Record) {
	t.Helper()
	client := envtest.Client(t, brokers)
	for _, event := range events {
		again := *event
		if err := client.ProduceSync(t.Context(), &again).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// checkSums compares what the consumer added up with what the producer ordered:
// the n-th order is of n times 100, and customers take turns.
func checkSums(t *testing.T, dsn string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	var got string
	if err := conn.QueryRow(t.Context(), "SELECT string_agg(customer || ' ' || orders || ' ' || amount, ', ' ORDER BY customer) FROM sums").Scan(&got); err != nil {
		t.Fatal(err)
	}
	if want := "customer-0 3 1200, customer-1 2 700, customer-2 2 900"; got != want {
		t.Errorf("sums %s, want %s", got, want)
	}
}

// program is a running example.
type program struct {
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	stderr *strings.Builder
}

func start(t *testing.T, path string, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.CommandContext(t.Context(), path, args...), stderr: &strings.Builder{}}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines, p.cmd.Stderr = bufio.NewScanner(stdout), p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// line waits for the next line that the program prints.
func (p *program) line(t *testing.T) string {
	t.Helper()
	if !p.lines.Scan() {
		err := p.cmd.Wait()
		t.Fatalf("%s ended: %v\n%s", p.cmd, err, p.stderr)
	}
	return p.lines.Text()
}

// stop asks the program to end, and expects that it does so in good order.
func (p *program) stop(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%s: %v\n%s", p.cmd, err, p.stderr)
	}
}
