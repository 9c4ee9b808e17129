package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// newExactGraveyard is a graveyard where all is delivered exactly once. Its topic takes
// records of 20 kB.
func newExactGraveyard(t *testing.T) *graveyard {
	t.Helper()
	g := newGraveyard(t)
	g.set("DELIVERY_GUARANTEE=exactly-once", "CHECKPOINT_TOPIC="+g.topic+".progress", "KAFKA_TRANSACTION_TIMEOUT=10s",
		"OUTBOX_TIMESTAMP=at")
	g.db.Exec(t, "ALTER TABLE outbox ADD at timestamptz")
	g.configure("max.message.bytes", "20000")
	return g
}

// configure changes a setting of the topic.
func (g *graveyard) configure(name, value string) {
	g.t.Helper()
	_, err := envtest.Admin(g.t, g.brokers).AlterTopicConfigs(g.t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}}, g.topic)
	if err != nil {
		g.t.Fatal(err)
	}
}

const (
	exactKeys  = 40
	refusedDay = "2190-01-01" // a broker takes no record of that day
)

// writeMixed commits n rows, seq 1 to n of each key in turn, of which about one in sixty is
// oversize and one in 400 is refused by the broker.
func (g *graveyard) writeMixed(ctx context.Context, first, n int) error {
	conn, err := pgx.Connect(ctx, g.db.DSN)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	const rows = 20
	for at := first; at < first+n; at += rows {
		_, err := conn.Exec(ctx, `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq, at)
			SELECT gen_random_uuid(), 'order', 'k' || i % $3, 'created', jsonb_build_object('fill', repeat('x', CASE WHEN i % 61 = 0 THEN 30000 ELSE 100 END)), i,
			CASE WHEN i % 397 = 0 THEN $4::text::timestamptz END FROM generate_series($1::int, $1::int + $2::int - 1) i`, at, rows, exactKeys, refusedDay)
		if err != nil {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// committedIDs returns the ids of the events in a topic that a consumer of committed
// records sees, by key and in order. Of the dead-letter topic only the events count.
func (g *graveyard) committedIDs(topic string) map[string][]string {
	g.t.Helper()
	got := map[string][]string{}
	err := harness.ConsumeCommitted(g.t.Context(), g.brokers, []string{topic}, func(rec *kgo.Record, _ int32) {
		headers := map[string]string{}
		for _, h := range rec.Headers {
			headers[h.Key] = string(h.Value)
		}
		if topic != g.dlq || headers["walpost-dlq-kind"] == "dead" || headers["walpost-dlq-kind"] == "parked" {
			got[string(rec.Key)] = append(got[string(rec.Key)], headers["id"])
		}
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return got
}

// wantOnce compares what is in the topics, joined for each key, with the table.
func (g *graveyard) wantOnce(topics ...map[string][]string) {
	g.t.Helper()
	rows, err := g.conn.Query(g.t.Context(), "SELECT aggregateid, id::text FROM outbox ORDER BY seq")
	if err != nil {
		g.t.Fatal(err)
	}
	defer rows.Close()
	want := map[string][]string{}
	for rows.Next() {
		var key, id string
		if err := rows.Scan(&key, &id); err != nil {
			g.t.Fatal(err)
		}
		want[key] = append(want[key], id)
	}
	for key, ids := range want {
		var got []string
		for _, topic := range topics {
			got = append(got, topic[key]...)
		}
		if strings.Join(got, " ") != strings.Join(ids, " ") {
			g.t.Errorf("key %s: %d events, want the %d of the table, each once and in order", key, len(got), len(ids))
		}
	}
}

// killed runs walpost n times until it is killed at a random moment, and returns the one
// that runs then.
func (g *graveyard) killed(rng *rand.Rand, n int) *harness.Process {
	g.t.Helper()
	for range n {
		p := g.start("run")
		harness.Eventually(g.t, 30*time.Second, "streaming", func() bool { return strings.Contains(p.Log(), "msg=streaming") })
		time.Sleep(time.Duration(rng.Int64N(int64(1200 * time.Millisecond)))) // the moment is the test
		p.Signal(syscall.SIGKILL)
		<-p.Exited()
	}
	return g.start("run")
}

// Poison rows, refused at once and by the broker, are dead and what is behind them is parked
// while the process is killed at random moments; so is a retry of all. A consumer of
// committed records sees each event once: in its topic, or among the dead letters.
func TestDeadLetterExactlyOnce(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	g := newExactGraveyard(t)
	const n, kills = 8000, 6
	written := make(chan error, 1)
	go func() { written <- g.writeMixed(t.Context(), 1, n) }()
	p := g.killed(rng, kills)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	g.caughtUp(2 * time.Minute)
	published, letters := g.committedIDs(g.topic), g.committedIDs(g.dlq)
	g.wantOnce(published, letters)
	if len(g.list()) != exactKeys {
		t.Errorf("%d dead letters, want one for each of %d keys", len(g.list()), exactKeys)
	}
	g.stop(p)

	g.configure("max.message.bytes", "1000000")
	g.configure("message.timestamp.after.max.ms", "9223372036854775807")
	go func() { written <- g.writeMixed(t.Context(), n+1, n/4) }()
	asked := g.start("dlq", "retry", "--all", "--wait", "3m")
	p = g.killed(rng, kills)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if code := g.wait(asked, 3*time.Minute); code != 0 {
		t.Fatalf("retry: exit %d\n%s", code, asked.Log())
	}
	g.walpost("dlq", "retry", "--all") // what became dead before the settings took effect
	g.caughtUp(time.Minute)
	g.wantOnce(g.committedIDs(g.topic))
	if list := g.list(); len(list) != 0 {
		t.Errorf("list = %+v, want nothing", list)
	}
	g.stop(p)
	fmt.Printf("FIGURES dead letters exactly once: %d events, %d of them dead or parked, %d times kill -9: no event lost, repeated or out of order\n",
		n+n/4, total(letters), 2*kills)
}

func total(byKey map[string][]string) (n int) {
	for _, ids := range byKey {
		n += len(ids)
	}
	return n
}

// Without dead letters a start is refused while keys are parked from when there were some,
// with the way out, which works.
func TestDeadLetterStopWhileParked(t *testing.T) {
	for _, guarantee := range []string{"at-least-once", "exactly-once"} {
		t.Run(guarantee, func(t *testing.T) {
			g := newGraveyard(t)
			if guarantee == "exactly-once" {
				g = newExactGraveyard(t)
			}
			p := g.start("run")
			g.write("a", "a1", tooLarge)
			g.write("a", "a2", 10)
			g.caughtUp(time.Minute)
			g.stop(p)
			poison := len(g.env)
			g.set("DELIVERY_POISON=stop")
			g.write("a", "a3", 10)
			code, log := g.command("run")
			if code != 1 || !strings.Contains(log, "events of 1 keys wait in dead-letter topic "+g.dlq) || !strings.Contains(log, "hint: set delivery.poison to dead-letter, retry or discard") {
				t.Errorf("exit %d\n%s", code, log)
			}
			g.want("a")
			g.env = g.env[:poison]
			p = g.start("run")
			g.walpost("dlq", "discard", "--all")
			g.caughtUp(time.Minute)
			g.stop(p)
			g.set("DELIVERY_POISON=stop")
			p = g.start("run")
			g.write("a", "a4", 10)
			g.caughtUp(time.Minute)
			g.stop(p)
			g.want("a", "a2", "a3", "a4")
		})
	}
}

// At the limit the stream is held and not ready, says why, and goes on once there is room.
// What is settled is trimmed from the topic.
func TestDeadLetterLimit(t *testing.T) {
	for _, guarantee := range []string{"at-least-once", "exactly-once"} {
		t.Run(guarantee, func(t *testing.T) {
			g := newGraveyard(t)
			if guarantee == "exactly-once" {
				g = newExactGraveyard(t)
			}
			g.set("DELIVERY_MAX_DEAD_LETTERS=10")
			if _, err := g.conn.Exec(t.Context(), `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq)
				SELECT gen_random_uuid(), 'order', NULL, 'created', jsonb_build_object('note', 'n' || i), i FROM generate_series(1, 25) i`); err != nil {
				t.Fatal(err)
			}
			g.write("a", "a1", 10)
			p := g.start("run")
			var reason string
			harness.Eventually(t, time.Minute, "/readyz says that the stream is held", func() bool {
				_, reason = g.ready()
				return strings.Contains(reason, "delivery.max_dead_letters")
			})
			// With exactly-once they are in a transaction that is committed just then.
			harness.Eventually(t, 30*time.Second, "10 dead letters", func() bool { return len(g.list()) == 10 })
			if strings.Count(p.Log(), "holding the stream") != 1 {
				t.Errorf("not said once:\n%s", p.Log())
			}
			for range 3 {
				g.walpost("dlq", "discard", "--all")
				time.Sleep(100 * time.Millisecond)
			}
			g.isReady(30 * time.Second)
			g.caughtUp(time.Minute)
			g.want("a", "a1")
			g.stop(p)
		})
	}
}

// A start lets go of what is settled.
func TestDeadLetterTrim(t *testing.T) {
	g := newGraveyard(t)
	p := g.start("run")
	for i := range 20 {
		g.write("a", fmt.Sprint("a", i), tooLarge)
	}
	g.write("b", "b1", tooLarge)
	g.caughtUp(time.Minute)
	g.walpost("dlq", "discard", "--key", "a", "--with-parked")
	starts, err := envtest.Admin(t, g.brokers).ListStartOffsets(t.Context(), g.dlq)
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := starts.Lookup(g.dlq, 0); o.Offset != 1 {
		t.Errorf("the log begins at %d while all was needed, want 1, the first dead letter", o.Offset)
	}
	g.stop(p)
	p = g.start("run")
	harness.Eventually(t, time.Minute, "the log is trimmed", func() bool {
		starts, err := envtest.Admin(t, g.brokers).ListStartOffsets(t.Context(), g.dlq)
		o, _ := starts.Lookup(g.dlq, 0)
		return err == nil && o.Offset >= 20
	})
	g.stop(p)
	p = g.start("run")
	g.write("b", "b2", 10)
	g.caughtUp(time.Minute)
	g.want("b")
	g.raiseLimit()
	g.walpost("dlq", "retry", "--all")
	g.want("b", "b1", "b2")
	g.stop(p)
}
