// Command bench measures walpost beside what else a user could take, on the same
// machine, servers, data and settings: pg_recvlogical, which delivers nothing and is
// what everybody takes for the floor; Debezium in Kafka Connect, tuned and with its
// defaults; and a relay that polls the table.
//
// It starts a Postgres and an Apache Kafka of its own on the loopback address,
// alternates the contenders, verifies what each has delivered, prints medians, writes
// them as JSON and as a chart when asked to, and ends.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	if len(os.Args) > 1 && os.Args[1] == relayCommand {
		err = relay(ctx, os.Args[2:])
	} else {
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop has nothing left to do
	}
}

// settings are what the command line says.
type settings struct {
	rounds     int
	scale      float64
	workloads  string
	contenders string
	rates      string
	duration   time.Duration
	warm       time.Duration
	json, svg  string
	from       string
	growth     bool
}

// bench is the servers and settings of one run.
type bench struct {
	settings

	dir     string
	pg      *testenv.PostgresServer
	relayPG *testenv.PostgresServer // the relay's own: it writes as much WAL as it reads; nil until wanted
	kafka   *testenv.KafkaServer
	proxy   *awayProxy // in front of it; nil unless growth is measured
	conn    *pgx.Conn
	admin   *kadm.Client // of the brokers
	walpost string       // the binary
	recv    string       // pg_recvlogical
	runs    int          // names slots and topics
	report  report
}

// flags defines the command line's.
func (s *settings) flags() {
	flag.IntVar(&s.rounds, "rounds", 3, "rounds of each contender")
	flag.Float64Var(&s.scale, "scale", 1, "factor on the events of each workload")
	flag.StringVar(&s.workloads, "workloads", "", "only backlogs whose names contain one of these, comma-separated; \"none\" for latency only")
	flag.StringVar(&s.contenders, "contenders", "", "only contenders whose names contain one of these, comma-separated")
	flag.StringVar(&s.rates, "rates", "1000,5000,20000,ramp,ramp-pull", "events per second at which latency is measured; \"ramp\" goes up and down, \"ramp-pull\" does so and has walpost pull; \"\" for none")
	flag.DurationVar(&s.duration, "duration", 15*time.Second, "how long latency is measured at each rate")
	flag.DurationVar(&s.warm, "warm", 15*time.Second, "how long each contender has the same load before that, which is not counted")
	flag.StringVar(&s.json, "json", "", "file for the figures as JSON; those of -growth are kept there beside the others")
	flag.StringVar(&s.svg, "svg", "", "file for a chart of them")
	flag.StringVar(&s.from, "from", "", "file of figures that -json has written: draws their chart anew, and measures nothing")
	flag.BoolVar(&s.growth, "growth", false, "measure instead how the cost of a backlog grows with what is in it and how far away the brokers are, and what shards bring")
}

func run(ctx context.Context) (err error) {
	debug.SetGCPercent(400) // the cores are the contenders'
	var b bench
	b.flags()
	flag.Parse()
	if b.from != "" {
		return redraw(b.from, b.svg)
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("it takes no arguments, and got %q: see -help", flag.Arg(0))
	}
	if err := b.judge(); err != nil {
		return err
	}
	if _, err := readReport(b.json); b.json != "" && err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // before an hour, and not after it
	}
	if b.dir, err = os.MkdirTemp("", "walpost-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if err := b.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	b.report.describe(ctx, &b)
	measure := b.compare
	if b.growth {
		measure = b.grow
	}
	if err = measure(ctx); ctx.Err() != nil {
		err = context.Cause(ctx) // and not what came of it
	}
	if len(b.report.Backlogs)+len(b.report.Latencies) == 0 {
		return cmp.Or(err, errors.New("nothing was measured: of what is selected no contender has a latency"))
	}
	return errors.Join(err, b.report.write(b.growth, b.json, b.svg)) // of a run that has failed, what it has
}

// compare measures the contenders. Latencies come first: backlogs leave the servers gigabytes
// to write and to clean up.
func (b *bench) compare(ctx context.Context) error {
	err := b.latencies(ctx)
	for _, w := range b.selectedWorkloads() {
		if failed := b.drain(ctx, w, b.selectedContenders()); failed != nil {
			return errors.Join(err, fmt.Errorf("%s: %w", w.Name, failed))
		}
	}
	return err
}

// order is in which order the contenders run in a round: at random, so that what one leaves
// behind does not always fall to the same other, and the same in each run of the bench.
func order(of string, round, contenders int) []int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(of))
	return rand.New(rand.NewPCG(h.Sum64(), uint64(round))).Perm(contenders)
}

// start builds walpost, and starts the servers with an empty outbox.
func (b *bench) start(ctx context.Context) (err error) {
	b.walpost = filepath.Join(b.dir, "walpost")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.walpost, "github.com/walpost/walpost/cmd/walpost")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build walpost: %w\n%s", err, out)
	}
	if b.recv, err = findRecvlogical(); err != nil {
		return err
	}
	if b.pg, err = startPostgres(ctx); err != nil {
		return err
	}
	brokers := testenv.KafkaConfig{Source: testenv.Programs, Load: true, Heap: "1g"}
	if b.growth {
		if b.proxy, err = newAwayProxy(ctx); err != nil {
			return errors.Join(err, b.pg.Close())
		}
		brokers.Listeners, brokers.Advertised = map[string]string{listenerAway: "PLAINTEXT"}, map[string]string{listenerAway: b.proxy.Listen}
	}
	if b.kafka, err = testenv.StartKafka(ctx, brokers); err != nil {
		return errors.Join(err, b.pg.Close())
	}
	if b.admin, err = kadm.NewOptClient(kgo.SeedBrokers(b.kafka.Addrs()...)); err == nil {
		b.conn, err = pgx.Connect(ctx, b.pg.DSN())
	}
	if err == nil {
		_, err = b.conn.Exec(ctx, setup)
	}
	if err != nil {
		return errors.Join(err, b.close())
	}
	return nil
}

func startPostgres(ctx context.Context) (*testenv.PostgresServer, error) {
	return testenv.StartPostgres(ctx, testenv.PostgresConfig{Source: testenv.Programs, Settings: map[string]string{"max_wal_size": "4GB"}})
}

func (b *bench) close() error {
	if b.admin != nil {
		b.admin.Close()
	}
	err := errors.Join(b.kafka.Close(), b.pg.Close())
	if b.relayPG != nil {
		err = errors.Join(err, b.relayPG.Close())
	}
	return err
}

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

// name returns one for a slot and a topic of a run.
func (b *bench) name() string {
	b.runs++
	return fmt.Sprintf("run%d", b.runs)
}

// copySlot makes a slot that stands where the backlog begins.
func (b *bench) copySlot(ctx context.Context) (string, error) {
	name := b.name()
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
