package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

const (
	// readyLimit is how long /readyz may take to say that something has begun or
	// ended.
	readyLimit = 10 * time.Second

	// Within these delivery must go on once a server or the network is back. Other
	// processes on the machine may cost some of it, for which noise is added.
	serverLimit  = time.Second
	networkLimit = 3 * time.Second
	noise        = 4 * time.Second
)

// trouble is a fault that stops delivery, from its begin to its end.
type trouble struct {
	name       string
	idle       bool   // nothing is written meanwhile
	unnoticed  bool   // over so soon that /readyz need not tell
	component  string // whose circuit it is; empty if it need not open
	reason     string // part of what /readyz says
	limit      time.Duration
	steady     bool // what fails is tried again and again, and /readyz must not say yes in between
	begin, end func() error
}

// sick is a stage with servers of its own behind links, and a walpost that faults are
// tried on.
type sick struct {
	*stage
	pg               *testenv.PostgresServer
	kafka            *testenv.KafkaServer
	pgLink, kafkaLnk *harness.Link
	next             int64
}

func newSick(t *testing.T) *sick {
	t.Helper()
	const listener = "LINKED"
	k := &sick{pgLink: harness.NewLink(t, "postgres"), kafkaLnk: harness.NewLink(t, "kafka"), next: 1}
	k.pg = envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"logical_decoding_work_mem": "64kB"}})
	k.kafka = envtest.NewKafka(t, testenv.KafkaConfig{
		Listeners: map[string]string{listener: "PLAINTEXT"}, Advertised: map[string]string{listener: k.kafkaLnk.Addr()},
	})
	k.stage = newStage(t, envtest.Database{Name: "postgres", DSN: k.pg.DSN()}, k.kafka.Addrs())
	server, err := pgx.ParseConfig(k.pg.DSN())
	if err != nil {
		t.Fatal(err)
	}
	k.pgLink.To(t, net.JoinHostPort(server.Host, strconv.Itoa(int(server.Port))))
	k.kafkaLnk.To(t, k.kafka.ListenerAddrs(listener)[0])
	host, port, err := net.SplitHostPort(k.pgLink.Addr())
	if err != nil {
		t.Fatal(err)
	}
	k.set("POSTGRES_DSN="+k.dsnWith(t, k.slot, "x")+" host="+host+" port="+port, "KAFKA_BROKERS="+k.kafkaLnk.Addr(), "DELIVERY_MAX_TX_MEMORY=64KiB")
	return k
}

// writing inserts an event twenty times a second until it is told to stop.
func (k *sick) writing() (stop func()) {
	ctx, cancel := context.WithCancel(k.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			k.write(ctx)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// write inserts events until the connection is lost.
func (k *sick) write(ctx context.Context) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	conn, err := pgx.Connect(ctx, k.db.DSN)
	for ; err == nil; <-ticker.C {
		_, err = conn.Exec(ctx, "INSERT INTO outbox SELECT e.* FROM event($1) e", k.next)
		k.next++
	}
	if conn != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
	}
	<-ticker.C
}

// delivering waits until an event that is written now is acknowledged, and returns when
// it was.
func (k *sick) delivering(limit time.Duration) time.Time {
	k.t.Helper()
	k.reconnect()
	k.fill(harness.OneRow, k.next, k.next)
	k.next++
	k.caughtUp(limit)
	return time.Now()
}

// try begins tr, waits until /readyz tells, ends it, and waits until that is told too.
func (k *sick) try(t *testing.T, p *harness.Process, tr trouble) {
	k.t = t
	k.isReady(readyLimit)
	k.delivering(readyLimit)
	var stop func()
	if !tr.idle {
		stop = k.writing()
	}
	if err := tr.begin(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	told, reason := k.until(503, tr.reason)
	if tr.unnoticed {
		told, reason = begun, "not to be told of"
	}
	if tr.component != "" {
		metric := fmt.Sprintf("walpost_circuit_state{component=%q}", tr.component)
		harness.Eventually(t, readyLimit, metric, func() bool { v, _ := harness.Metric(t.Context(), k.admin, metric); return v > 0 })
	}
	if tr.steady {
		k.steady()
	}
	if code, text := harness.Get(t.Context(), k.admin, "/livez"); code != 200 {
		t.Errorf("/livez = %d %s", code, text)
	}
	if err := tr.end(); err != nil {
		t.Fatal(err)
	}
	ended := time.Now()
	if stop != nil {
		stop()
	}
	delivered := k.delivering(time.Minute).Sub(ended)
	ready, _ := k.until(200, "")
	harness.Eventually(t, 5*time.Second, "circuits closed", func() bool { return k.closed("postgres") && k.closed("kafka") })
	fmt.Printf("FIGURES readyz, %s: 503 after %.1f s, %q; delivered again %.1f s after the end, 200 after %.1f s\n",
		tr.name, told.Sub(begun).Seconds(), reason, delivered.Seconds(), ready.Sub(ended).Seconds())
	if ready.Sub(ended) > readyLimit {
		t.Errorf("ready %s after the end", ready.Sub(ended))
	}
	if tr.limit > 0 && delivered > tr.limit+noise {
		t.Errorf("delivered %s after the end, want within %s", delivered, tr.limit)
	}
	select {
	case <-p.Exited():
		t.Fatalf("walpost ended:\n%s", p.Log())
	default:
	}
}

// until waits until /readyz has a code and says some text, and returns when and what.
func (k *sick) until(code int, text string) (time.Time, string) {
	k.t.Helper()
	begun, last := time.Now(), ""
	for time.Since(begun) < readyLimit {
		got, said := k.ready()
		if got == code && strings.Contains(said, text) {
			return time.Now(), said
		}
		last = fmt.Sprintf("%d %s", got, said)
		time.Sleep(20 * time.Millisecond)
	}
	k.t.Errorf("/readyz was not %d %q within %s, it says %s", code, text, readyLimit, last)
	return time.Now(), last
}

// steady wants /readyz to say no all the time, once the fault is two seconds old.
func (k *sick) steady() {
	k.t.Helper()
	for begun := time.Now(); time.Since(begun) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
		if code, text := k.ready(); code != 503 && time.Since(begun) > 2*time.Second {
			k.t.Fatalf("/readyz = %d %s in the middle of the fault", code, text)
		}
	}
}

func (k *sick) closed(component string) bool {
	v, ok := harness.Metric(k.t.Context(), k.admin, fmt.Sprintf("walpost_circuit_state{component=%q}", component))
	return ok && v == 0
}

// Each fault that stops delivery is told of by /readyz within ten seconds, and its end
// too, while /livez never fails. Nothing is lost or repeated by any of it.
func TestReadyz(t *testing.T) {
	k := newSick(t)
	spill := filepath.Join(t.TempDir(), "spill")
	k.set("DELIVERY_SPILL_DIR=" + spill)
	if err := os.Mkdir(spill, 0o700); err != nil {
		t.Fatal(err)
	}
	p := k.start("run")
	k.isReady(30 * time.Second)
	troubles := append(k.postgresTroubles(t, spill), k.kafkaTroubles(t)...)
	for _, tr := range append(troubles, k.networkTroubles()...) {
		t.Run(strings.ReplaceAll(tr.name, " ", "_"), func(t *testing.T) { k.try(t, p, tr) })
	}
	k.t = t
	k.reconnect()
	k.stop(p)
	if r := k.check(); r.Duplicated > 0 {
		t.Errorf("%d duplicates in one process", r.Duplicated)
	}
}

func (k *sick) postgresTroubles(t *testing.T, spill string) []trouble {
	ctx := t.Context()
	var lock pgx.Tx
	return []trouble{
		{
			name: "Postgres away", component: "postgres", reason: "connect", limit: serverLimit,
			begin: func() error { return k.pg.Kill(ctx) }, end: func() error { return k.pg.Start(ctx) },
		},
		{
			name: "Postgres restarts", unnoticed: true, limit: serverLimit,
			begin: func() error { return k.pg.Restart(ctx, testenv.Fast) }, end: func() error { return nil },
		},
		{
			name: "walsender terminated", unnoticed: true, limit: networkLimit,
			begin: func() error {
				_, err := k.conn.Exec(ctx, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL")
				return err
			},
			end: func() error { return nil },
		},
		{
			name: "checkpoint table locked", reason: "checkpoint",
			begin: func() (err error) {
				if lock, err = k.db.Connect(t).Begin(ctx); err != nil {
					return err
				}
				_, err = lock.Exec(ctx, "LOCK TABLE walpost.checkpoint IN ACCESS EXCLUSIVE MODE")
				return err
			},
			end: func() error { return lock.Rollback(ctx) },
		},
		{
			name: "spill folder gone", idle: true, component: "postgres", reason: "spill", steady: true,
			begin: func() error {
				if err := os.Remove(spill); err != nil {
					return err
				}
				const rows = 5000 // more than the memory for a transaction
				_, err := k.conn.Exec(ctx, "INSERT INTO outbox SELECT e.* FROM generate_series($1::bigint, $2::bigint) i, event(i) e", k.next, k.next+rows)
				k.next += rows + 1
				return err
			},
			end: func() error { return os.Mkdir(spill, 0o700) },
		},
	}
}

func (k *sick) kafkaTroubles(t *testing.T) []trouble {
	ctx := t.Context()
	kill, start := func() error { return k.kafka.Kill(ctx) }, func() error { return k.kafka.Start(ctx) }
	return []trouble{
		{name: "Kafka away", component: "kafka", reason: "kafka", limit: serverLimit, begin: kill, end: start},
		{name: "Kafka away, idle", idle: true, component: "kafka", reason: "no broker answers", limit: serverLimit, begin: kill, end: start},
		{name: "Kafka frozen", component: "kafka", reason: "kafka", limit: serverLimit, begin: k.kafka.Pause, end: k.kafka.Resume},
		{name: "Kafka frozen, idle", idle: true, component: "kafka", reason: "kafka", limit: serverLimit, begin: k.kafka.Pause, end: k.kafka.Resume},
	}
}

// networkTroubles are the same to both sides.
func (k *sick) networkTroubles() []trouble {
	both := []harness.Direction{harness.ToServer, harness.ToWalpost}
	var all []trouble
	for _, side := range []struct {
		component string
		link      *harness.Link
	}{{"postgres", k.pgLink}, {"kafka", k.kafkaLnk}} {
		add := func(name string, idle bool, begin, end func() error) {
			tr := trouble{name: name + ", " + side.component, idle: idle, reason: side.component, limit: networkLimit, begin: begin, end: end}
			if idle {
				tr.name += ", idle"
			}
			if side.component == "kafka" {
				tr.component = "kafka" // that of Postgres opens only when the stream is given up
			}
			all = append(all, tr)
		}
		hole := func(directions ...harness.Direction) func() error {
			return func() error { return side.link.Swallow(directions...) }
		}
		add("black hole", false, hole(both...), side.link.Heal)
		for _, idle := range []bool{false, true} {
			add("black hole to the server", idle, hole(harness.ToServer), side.link.Heal)
			add("black hole to walpost", idle, hole(harness.ToWalpost), side.link.Heal)
		}
		add("refused", false, side.link.Refuse, side.link.Accept)
	}
	for i := range all {
		if strings.HasPrefix(all[i].name, "refused") {
			all[i].reason = "connect"
		}
	}
	return all
}

// What a broker answers with that is no poison and stops delivery is told of too.
func TestReadyzAnswers(t *testing.T) {
	cluster := envtest.FakeKafka(t, kfake.NumBrokers(1))
	k := &sick{stage: newStage(t, envtest.NewDatabase(t), cluster.ListenAddrs()), next: 1}
	p := k.start("run")
	k.isReady(30 * time.Second)
	for _, answer := range []*kerr.Error{kerr.NotEnoughReplicas, kerr.TopicAuthorizationFailed, kerr.KafkaStorageError} {
		var h *kfake.FaultHandle
		tr := trouble{
			name: answer.Message, component: "kafka", reason: answer.Message, limit: networkLimit,
			begin: func() error {
				h = cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: answer, Count: -1})
				return nil
			},
			end: func() error { h.Remove(); return nil },
		}
		t.Run(answer.Message, func(t *testing.T) { k.try(t, p, tr) })
	}
	k.t = t
	k.reconnect()
	k.stop(p)
	if r := k.check(); r.Duplicated > 0 {
		t.Errorf("%d duplicates in one process", r.Duplicated)
	}
}

// An outage of half a minute, with five attempts a second, fills no log.
func TestOutageIsLoggedSparsely(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.set("KAFKA_BROKERS="+harness.FreeAddr(t), "POSTGRES_DSN=postgres://postgres@"+harness.FreeAddr(t)+"/postgres",
		"DELIVERY_RETRY_INITIAL=200ms", "DELIVERY_RETRY_MAX=200ms")
	p := s.start("run")
	const outage = 30 * time.Second
	<-time.After(outage) // it is how long the log must stay short
	retries, _ := harness.Metric(t.Context(), s.admin, `walpost_retries_total{component="postgres"}`)
	lines := strings.Count(p.Log(), "\n")
	fmt.Printf("FIGURES log of %s without both servers: %.0f attempts to reach Postgres, %d lines\n", outage, retries, lines)
	if retries < 100 || lines > 25 {
		t.Errorf("%.0f attempts and %d lines, want 100 and at most 25:\n%s", retries, lines, p.Log())
	}
	s.stop(p)
}
