package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
)

// The contenders' names.
const (
	floorTCP      = "pg_recvlogical over TCP"
	floorSocket   = "pg_recvlogical over a Unix socket"
	walpostTCP    = "walpost over TCP"
	walpostSocket = "walpost over a Unix socket"
	walpostExact  = "walpost exactly-once over TCP"
	debeziumName  = "Debezium"
	debeziumTuned = debeziumName + " tuned"
	debeziumPlain = debeziumName + " with defaults"
	relayName     = "polling relay"
)

// contender delivers what a slot or a table holds.
type contender struct {
	name string

	// start starts it. An empty topic means that it delivers nothing, and ends at the
	// end of the backlog by itself.
	start starter

	with func(args ...string) starter // with more settings; nil for all but walpost

	delivers     bool // to Kafka
	transactions bool // of Kafka
	latency      bool // measured too
	polls        bool // the table of the relay's server
}

type starter func(ctx context.Context, slot, topic, end string) (runner, error)

// runner is a contender's process.
type runner interface {
	// stop ends the process in good order, or waits for its end if it ends by itself,
	// and returns its CPU time.
	stop(ctx context.Context) (time.Duration, error)
	pid() int
	log() string
}

// allContenders also names them before there is a server, which each is pointed at when it starts.
func (b *bench) allContenders() []contender {
	exact := b.walpostContender(walpostExact, b.pg.DSN, "--delivery.guarantee=exactly-once")
	exact.transactions = true
	return []contender{
		{name: floorTCP, start: b.recvlogical(b.pg.DSN)},
		b.walpostContender(walpostTCP, b.pg.DSN),
		exact,
		{name: floorSocket, start: b.recvlogical(b.pg.SocketDSN)},
		b.walpostContender(walpostSocket, b.pg.SocketDSN),
		{name: debeziumTuned, start: b.startDebezium(true), delivers: true, latency: true},
		{name: debeziumPlain, start: b.startDebezium(false), delivers: true, latency: true},
		{name: relayName, start: b.startRelay, delivers: true, latency: true, polls: true},
	}
}

func (b *bench) walpostContender(name string, dsn func() string, args ...string) contender {
	with := func(more ...string) starter {
		return func(ctx context.Context, slot, topic, end string) (runner, error) {
			return b.startWalpost(dsn(), slices.Concat(args, more)...)(ctx, slot, topic, end)
		}
	}
	return contender{name: name, start: with(), with: with, delivers: true, latency: true}
}

// selectedContenders are those that were asked for.
func (b *bench) selectedContenders() []contender {
	var all []contender
	for _, c := range b.allContenders() {
		if selected(b.settings.contenders, c.name) {
			all = append(all, c)
		}
	}
	return all
}

// program is a contender that is one program.
type program struct {
	cmd     *exec.Cmd
	out     strings.Builder
	endless bool // ends when it is told to
}

func startProgram(cmd *exec.Cmd, endless bool) (*program, error) {
	p := &program{cmd: cmd, endless: endless}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return p, cmd.Start()
}

func (p *program) pid() int    { return p.cmd.Process.Pid }
func (p *program) log() string { return p.out.String() }

func (p *program) stop(context.Context) (time.Duration, error) {
	if p.endless {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return 0, err
		}
	}
	if err := p.cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, p.log())
	}
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime(), nil
}

// recvlogical reads the slot with pg_recvlogical, and throws away what it reads.
func (b *bench) recvlogical(dsn func() string) starter {
	return func(ctx context.Context, slot, _, end string) (runner, error) {
		return startProgram(exec.CommandContext(ctx, b.recv, "-d", dsn(), "-S", slot, "--start", "--no-loop", "-E", end, "-f", "/dev/null",
			"-o", "proto_version=1", "-o", "publication_names=walpost"), false)
	}
}

func (b *bench) startWalpost(dsn string, args ...string) starter {
	return b.startWalpostAt(b.kafka.Addrs(), dsn, args...)
}

func (b *bench) startWalpostAt(brokers []string, dsn string, args ...string) starter {
	return func(ctx context.Context, slot, topic, _ string) (runner, error) {
		return startProgram(exec.CommandContext(ctx, b.walpost, append([]string{
			"run", "--dsn", dsn, "--slot", slot, "--brokers", strings.Join(brokers, ","),
			"--outbox.topic", topic, "--admin.listen", "127.0.0.1:0",
		}, args...)...), true)
	}
}

// worker is Debezium.
type worker struct{ *testenv.ConnectServer }

func (w worker) pid() int { return w.PID() }
func (w worker) log() string {
	data, err := os.ReadFile(w.LogFile())
	return string(data[max(0, len(data)-4000):]) + fmt.Sprint(err)
}

func (w worker) stop(ctx context.Context) (time.Duration, error) {
	log := w.log()
	cpu, err := w.Stop(ctx)
	if err = errors.Join(err, w.Close()); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, log)
	}
	return cpu, nil
}

func (b *bench) startDebezium(tuned bool) starter {
	return func(ctx context.Context, slot, topic, _ string) (runner, error) {
		cfg, err := b.debezium(slot, topic, tuned)
		if err != nil {
			return nil, err
		}
		s, err := testenv.StartConnect(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return worker{s}, nil
	}
}

// What tuned Debezium has in place of its defaults.
var (
	tunedConnector = map[string]string{
		"poll.interval.ms": "5", "max.batch.size": "8192", "max.queue.size": "32768",
		"extended.headers.enabled": "false", "internal.advanced.metrics.enable": "false",
		"statistics.metrics.enabled": "false",
	}
	tunedWorker = map[string]string{
		"producer.enable.idempotence": "true", "producer.max.in.flight.requests.per.connection": "5",
		"producer.linger.ms": "5", "producer.batch.size": strconv.Itoa(256 << 10),
	}
)

const tunedHeap = "1g"

// tunedSettings names them.
func tunedSettings() string {
	all := []string{"a heap of " + tunedHeap}
	for _, settings := range []map[string]string{tunedConnector, tunedWorker} {
		for name, value := range settings {
			all = append(all, name+"="+value)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// debezium are its settings. Both have the same acks, compression and partitions as
// walpost.
func (b *bench) debezium(slot, topic string, tuned bool) (testenv.ConnectConfig, error) {
	db, err := pgx.ParseConfig(b.pg.DSN())
	if err != nil {
		return testenv.ConnectConfig{}, err
	}
	connector := map[string]string{"slot.name": slot, "publication.name": "walpost", "transforms.outbox.route.topic.replacement": topic}
	cfg := testenv.ConnectConfig{Brokers: b.kafka.Addrs(), Worker: map[string]string{"producer.compression.type": "lz4", "producer.acks": "all"}}
	if tuned {
		maps.Copy(connector, tunedConnector)
		maps.Copy(cfg.Worker, tunedWorker)
		cfg.Heap = tunedHeap
	}
	cfg.Connector = testenv.DebeziumOutbox(db, connector)
	return cfg, nil
}
