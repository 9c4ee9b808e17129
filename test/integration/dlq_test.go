package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// graveyard is a stage with dead letters, and what was written on it.
type graveyard struct {
	*stage
	dlq string
	ids map[string]string // of the event with a note
}

func newGraveyard(t *testing.T) *graveyard {
	t.Helper()
	brokers := envtest.Kafka(t).Addrs()
	g := &graveyard{stage: newStage(t, envtest.NewDatabase(t), brokers), dlq: envtest.Name(t) + ".dead", ids: map[string]string{}}
	g.db.Exec(t, "ALTER TABLE outbox ALTER aggregateid DROP NOT NULL, ALTER aggregatetype DROP NOT NULL")
	g.set("DELIVERY_POISON=dead-letter", "DELIVERY_DEAD_LETTER_TOPIC="+g.dlq, "CHECKPOINT_INTERVAL=100ms", "KAFKA_CREATE_TOPICS=true")
	return g
}

// write commits an event of a key with a payload of some bytes, found again by its
// note.
func (g *graveyard) write(key, note string, size int) {
	g.t.Helper()
	var id string
	err := g.conn.QueryRow(g.t.Context(), `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq)
		VALUES (gen_random_uuid(), 'order', $1, 'created', jsonb_build_object('note', $2::text, 'fill', repeat('x', $3)), 0) RETURNING id::text`, key, note, size).Scan(&id)
	if err != nil {
		g.t.Fatal(err)
	}
	g.ids[note] = id
}

const tooLarge = 1_200_000

// notes returns the notes of the events in a topic, by key and in order, first
// occurrences only.
func (g *graveyard) notes(topic string) map[string][]string {
	g.t.Helper()
	got := map[string][]string{}
	err := harness.Consume(g.t.Context(), g.brokers, []string{topic}, func(rec *kgo.Record, _ int32) {
		var payload struct{ Note string }
		if json.Unmarshal(rec.Value, &payload) == nil && !slices.Contains(got[string(rec.Key)], payload.Note) {
			got[string(rec.Key)] = append(got[string(rec.Key)], payload.Note)
		}
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return got
}

func (g *graveyard) want(key string, want ...string) {
	g.t.Helper()
	if got := g.notes(g.topic)[key]; !slices.Equal(got, want) {
		g.t.Errorf("key %s: published %v, want %v", key, got, want)
	}
}

type listed struct {
	ID, Key, Topic, Reason, Error, Table string
	Parked                               int
	Time                                 time.Time
}

func (g *graveyard) list() []listed {
	g.t.Helper()
	var list []listed
	if err := json.Unmarshal([]byte(g.walpost("dlq", "list", "-o", "json")), &list); err != nil {
		g.t.Fatal(err)
	}
	return list
}

// command runs walpost and returns the exit code and what it said.
func (g *graveyard) command(args ...string) (int, string) {
	g.t.Helper()
	p := g.start(args...)
	return g.wait(p, time.Minute), p.Log()
}

func (g *graveyard) raiseLimit() {
	g.t.Helper()
	value := "3000000"
	_, err := envtest.Admin(g.t, g.brokers).AlterTopicConfigs(g.t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &value}}, g.topic)
	if err != nil {
		g.t.Fatal(err)
	}
}

// An oversize row is dead, later events of its key wait behind it and others flow,
// across kill -9 and a clean restart. A retry that fails again leaves it so; one
// that can pass publishes all in order and frees the key.
func TestDeadLetterRetry(t *testing.T) {
	g := newGraveyard(t)
	p := g.start("run")
	g.write("a", "a1", 10)
	g.write("a", "a2", tooLarge)
	g.write("a", "a3", 10)
	g.write("b", "b1", 10)
	g.caughtUp(time.Minute)
	p.Signal(syscall.SIGKILL)
	<-p.Exited()
	p = g.start("run")
	g.write("a", "a4", 10)
	g.caughtUp(time.Minute)
	g.stop(p)
	p = g.start("run")
	g.write("a", "a5", tooLarge)
	g.write("b", "b2", 10)
	g.caughtUp(time.Minute)
	g.want("a", "a1")
	g.want("b", "b1", "b2")

	list := g.list()
	if len(list) != 1 || list[0].ID != g.ids["a2"] || list[0].Key != "a" || list[0].Topic != g.topic || list[0].Reason != "oversize" || list[0].Parked < 3 || list[0].Time.IsZero() {
		t.Errorf("list = %+v, want a2 with 3 behind it", list)
	}
	if text := g.walpost("dlq", "list"); !strings.Contains(text, g.ids["a2"]) || !strings.Contains(text, `"a"`) {
		t.Errorf("list = %s", text)
	}
	if text := g.walpost("dlq", "show", g.ids["a2"]); !strings.Contains(text, "oversize") || !strings.Contains(text, strings.Repeat("x", tooLarge)) {
		t.Errorf("show lacks the reason or the payload: %.1000s", text)
	}
	if n, _ := harness.Metric(t.Context(), g.admin, "walpost_parked_keys"); n != 1 {
		t.Errorf("walpost_parked_keys = %v, want 1", n)
	}

	if code, log := g.command("dlq", "retry", g.ids["a2"]); code != 1 || !strings.Contains(log, "failed again") || !strings.Contains(log, "hint: ") {
		t.Errorf("retry: exit %d\n%s", code, log)
	}
	g.want("a", "a1")
	g.raiseLimit()
	if log := g.walpost("dlq", "retry", "--key", "a"); !strings.Contains(log, "settled 1") {
		t.Errorf("retry: %s", log)
	}
	g.write("a", "a6", 10)
	g.caughtUp(time.Minute)
	g.want("a", "a1", "a2", "a3", "a4", "a5", "a6")
	if list := g.list(); len(list) != 0 {
		t.Errorf("list = %+v, want nothing", list)
	}
	if code, log := g.command("dlq", "retry", g.ids["a2"]); code != 1 || !strings.Contains(log, "hint: walpost dlq list") {
		t.Errorf("retry of what is settled: exit %d\n%s", code, log)
	}
	g.stop(p)
	if strings.Contains(p.Log(), "xxxx") {
		t.Error("a payload is in the log")
	}
	_ = fmt.Sprint
}
