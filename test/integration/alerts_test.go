package integration

import (
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// impatient makes the rules wait seconds where they wait minutes, and takes megabytes for
// gigabytes. What they look at stays.
var impatient = strings.NewReplacer(
	"for: 1m", "for: 1s", "for: 2m", "for: 1s", "for: 5m", "for: 1s",
	"> 60", "> 2", "67108864", "1048576", "10 * 1024 * 1024 * 1024", "16 * 1024 * 1024", "12 * 1024 * 1024 * 1024", "16 * 1024 * 1024",
	"[5m]", "[5s]", "[10m]", "[1m]", "[15m]", "[1m]", "[30m]", "[5s]", "[1h]", "[2m]", "4 * 3600", "60",
)

// alarm is a deployment that a Prometheus watches with walpost's rules.
type alarm struct {
	*stage
	prom  *harness.Prometheus
	last  int64 // number of the last event
	fired []string
}

func newAlarm(t *testing.T, db envtest.Database, brokers []string) *alarm {
	t.Helper()
	program, err := osexec.LookPath("prometheus")
	if err != nil {
		const missing = "no Prometheus is installed"
		if os.Getenv("CI") != "" || os.Getenv(envtest.RequireVariable) != "" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	rules, err := os.ReadFile("../../deploy/prometheus/alerts.yml")
	must(t, err)
	a := &alarm{stage: newStage(t, db, brokers), prom: harness.StartPrometheus(t, program, impatient.Replace(string(rules)))}
	a.set("DELIVERY_POISON=dead-letter", "KAFKA_CREATE_TOPICS=true", "POSTGRES_STATUS_INTERVAL=500ms", "POSTGRES_WAIT_FOR_SLOT=true")
	return a
}

func (a *alarm) events(n int64) {
	a.t.Helper()
	a.fill(harness.Rows, a.last+1, a.last+n)
	a.last += n
}

// fires waits for alerts, and says which came with them.
func (a *alarm) fires(cause string, names ...string) {
	a.t.Helper()
	begun := time.Now()
	var firing []string
	ok := func() bool {
		var err error
		firing, err = a.prom.Firing()
		return err == nil && !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(firing, name) })
	}
	for !ok() && time.Since(begun) < time.Minute {
		time.Sleep(harness.PollInterval)
	}
	if !ok() {
		a.t.Fatalf("%s: want %v to fire, and it is %v", cause, names, firing)
	}
	a.fired = append(a.fired, names...)
	fmt.Printf("FIGURES alerts, %s: %s after %.1f s\n", cause, strings.Join(firing, ", "), time.Since(begun).Seconds())
}

// Each alert is fired by what it is there for, and none by a deployment that is well. The waits
// and sizes in the rules are made small, and nothing else.
func TestAlertsByCause(t *testing.T) {
	kafka := envtest.NewKafka(t, testenv.KafkaConfig{})
	a := newAlarm(t, envtest.NewDatabaseOn(t, envtest.NewPostgres(t, testenv.PostgresConfig{})), kafka.Addrs())
	second := harness.FreeAddr(t)
	p := a.start("run")
	a.events(1000)
	a.caughtUp(time.Minute)
	standby := a.start("run", "--admin.listen", second)
	harness.Eventually(t, 30*time.Second, "a standby", func() bool { _, word := harness.Ready(t.Context(), second); return strings.Contains(word, "standby") })
	a.prom.Watch(a.admin, second)
	time.Sleep(8 * time.Second) // that is longer than any rule waits, but for those that count what happens
	if firing, err := a.prom.Firing(); err != nil || len(firing) > 0 {
		t.Fatalf("of a deployment that is well %v fires, %v", firing, err)
	}

	a.prom.Watch(second)
	a.fires("the owner of the slot is not watched", "WalpostNobodyStreams")
	a.prom.Watch(a.admin)
	a.stop(standby)

	a.exec("INSERT INTO outbox VALUES (gen_random_uuid(), 'order', 'dead', 'created', to_jsonb(repeat('x', 1200000)), 0)")
	a.fires("an event that no broker takes", "WalpostDeadLetters", "WalpostEventsFail")

	a.unsaved()

	p = a.disturbed(p)

	must(t, kafka.Pause())
	a.events(60_000)
	a.fires("Kafka does not answer", "WalpostDisconnected", "WalpostLagging", "WalpostStandsStill", "WalpostPartitionStalled", "WalpostSlotKeepsMuch")
	must(t, kafka.Resume())
	a.caughtUp(time.Minute)

	a.grown(kafka)

	must(t, kafka.Pause())
	a.overfill()
	must(t, kafka.Resume())

	p.Signal(syscall.SIGKILL)
	a.fires("it is killed", "WalpostDown")
	a.complete()
}

// disturbed ends the server's sessions, and then walpost, again and again. It returns the
// process that runs.
func (a *alarm) disturbed(p *harness.Process) *harness.Process {
	a.t.Helper()
	for range 7 {
		a.db.Exec(a.t, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '"+a.slot+"'")
		a.isReady(30 * time.Second)
		a.events(500)
		a.caughtUp(time.Minute)
	}
	a.fires("the server's sessions end again and again", "WalpostReconnects")

	for range 4 {
		a.stop(p)
		p = a.start("run")
		a.isReady(30 * time.Second)
		time.Sleep(time.Second) // so that it is asked
	}
	a.fires("it is started again and again", "WalpostRestarts")
	a.events(1000)
	a.caughtUp(time.Minute)
	return p
}

// grown adds a partition to the topic, and has the client look at the cluster.
func (a *alarm) grown(kafka *testenv.KafkaServer) {
	a.t.Helper()
	_, err := envtest.Admin(a.t, a.brokers).CreatePartitions(a.t.Context(), 1, a.topic)
	must(a.t, err)
	must(a.t, kafka.Stop(a.t.Context()))
	a.events(1000) // what cannot be sent makes the client look at the cluster again
	must(a.t, kafka.Start(a.t.Context()))
	a.caughtUp(time.Minute)
	a.events(1000)
	a.fires("a partition is added to a topic", "WalpostPartitionsAdded")
	if bad, _ := a.doctor(); !strings.Contains(fmt.Sprintf("%+v", bad), "partitions were added to topics") {
		a.t.Errorf("doctor says nothing of it: %+v", bad)
	}
}

// unsaved locks the table of the positions for a while.
func (a *alarm) unsaved() {
	a.t.Helper()
	tx, err := a.db.Connect(a.t).Begin(a.t.Context())
	must(a.t, err)
	_, err = tx.Exec(a.t.Context(), "LOCK TABLE walpost.checkpoint")
	must(a.t, err)
	a.writing(500, func() { a.fires("no position can be saved", "WalpostCheckpointStuck") })
	must(a.t, tx.Rollback(a.t.Context()))
	a.caughtUp(time.Minute)
}

// overfill writes more than the server keeps for a slot.
func (a *alarm) overfill() {
	a.t.Helper()
	a.exec("ALTER SYSTEM SET max_slot_wal_keep_size = '128MB'")
	a.exec("SELECT pg_reload_conf()")
	a.writing(2000, func() {
		a.fires("the server keeps no more than 128 MB for the slot", "WalpostSlotSoonLost")
		a.fires("that is written", "WalpostSlotLost")
	})
}

// writing writes n events five times a second, in another session, while do goes on.
func (a *alarm) writing(n int64, do func()) {
	a.t.Helper()
	conn := a.db.Connect(a.t)
	ctx, cancel := context.WithCancel(a.t.Context())
	ended := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if err := harness.Fill(a.t.Context(), conn, harness.Rows, a.last+1, a.last+n); err != nil {
				ended <- err
				return
			}
			a.last += n
			time.Sleep(200 * time.Millisecond)
		}
		ended <- nil
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			a.t.Error(err)
		}
	}()
	do()
}

// complete wants every alert of the rules to have fired.
func (a *alarm) complete() {
	a.t.Helper()
	rules, err := os.ReadFile("../../deploy/prometheus/alerts.yml")
	must(a.t, err)
	for line := range strings.Lines(string(rules)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "- alert: "); ok && !slices.Contains(a.fired, name) {
			a.t.Errorf("%s has not fired", name)
		}
	}
}
