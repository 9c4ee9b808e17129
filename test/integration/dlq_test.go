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
	g.set("DELIVERY_POISON=dead-letter", "DELIVERY_DEAD_LETTER_TOPIC="+g.dlq, "DELIVERY_MAX_DEAD_LETTERS=1000000", "CHECKPOINT_INTERVAL=100ms", "KAFKA_CREATE_TOPICS=true")
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
	got, seen := map[string][]string{}, map[string]bool{}
	err := harness.Consume(g.t.Context(), g.brokers, []string{topic}, func(rec *kgo.Record, _ int32) {
		var payload struct{ Note string }
		if json.Unmarshal(rec.Value, &payload) == nil && !seen[payload.Note] {
			seen[payload.Note] = true
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

func (g *graveyard) raiseLimit() { g.setLimit("3000000") }

// setLimit changes how large a batch the topic takes, in bytes.
func (g *graveyard) setLimit(value string) {
	g.t.Helper()
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
}

// Each kind of poison becomes a dead letter with its reason, its bytes as they are,
// and what is known of it.
func TestDeadLetterKinds(t *testing.T) {
	g := newGraveyard(t)
	g.db.Exec(t, "ALTER TABLE outbox ADD at timestamptz, ADD part int")
	g.set("OUTBOX_TOPIC=${routedByValue}", "OUTBOX_TIMESTAMP=at", "OUTBOX_PLACE=part:partition,type:header:eventType")
	kinds := []struct {
		name, reason   string
		key, route, at any
		part           any
		size           int
		whole          bool // it is poison only where it was to go
	}{
		{name: "NullKey", reason: "key", route: g.topic},
		{name: "NullRoute", reason: "topic", key: "k1"},
		{name: "IllegalTopic", reason: "topic", key: "k2", route: "no/topic", whole: true},
		{name: "InfiniteTime", reason: "row", key: "k3", route: g.topic, at: "infinity"},
		{name: "NoSuchPartition", reason: "row", key: "k4", route: g.topic, part: 1000, whole: true},
		{name: "Oversize", reason: "oversize", key: "k5", route: g.topic, size: tooLarge, whole: true},
		{name: "RefusedByTheBroker", reason: "refused", key: "k6", route: g.topic, at: "2190-01-01", whole: true},
	}
	p := g.start("run")
	payloads := map[string]string{} // by id
	ids := map[string]string{}
	for _, k := range kinds {
		var id, payload string
		err := g.conn.QueryRow(t.Context(), `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq, at, part)
			VALUES (gen_random_uuid(), $1, $2, 'created', jsonb_build_object('n', 1.50, 'fill', repeat('x', $3)), 0, $4::text::timestamptz, $5) RETURNING id::text, payload::text`,
			k.route, k.key, k.size, k.at, k.part).Scan(&id, &payload)
		if err != nil {
			t.Fatal(err)
		}
		payloads[id], ids[k.name] = payload, id
		if k.key != nil {
			if _, err := g.conn.Exec(t.Context(), "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq) VALUES (gen_random_uuid(), $1, $2, 'created', '1', 0)", k.route, k.key); err != nil {
				t.Fatal(err)
			}
		}
	}
	g.caughtUp(time.Minute)
	list := map[string]listed{}
	for _, l := range g.list() {
		list[l.ID] = l
	}
	for _, k := range kinds {
		l := list[ids[k.name]]
		wantParked := 1
		if k.key == nil {
			wantParked = 0
		}
		if l.Reason != k.reason || l.Parked != wantParked || l.Table != "public.outbox" || l.Error == "" {
			t.Errorf("%s: %+v, want reason %s and %d parked", k.name, l, k.reason, wantParked)
		}
		var shown struct {
			Payload []byte `json:"payload_base64"`
			Headers []struct{ Name, Value string }
		}
		if err := json.Unmarshal([]byte(g.walpost("dlq", "show", ids[k.name], "-o", "json")), &shown); err != nil {
			t.Fatal(err)
		}
		if string(shown.Payload) != payloads[ids[k.name]] || len(shown.Headers) != 2 || shown.Headers[0].Value != ids[k.name] || shown.Headers[1].Value != "created" {
			t.Errorf("%s: payload of %d bytes, headers %+v", k.name, len(shown.Payload), shown.Headers)
		}
		for _, counter := range []string{"walpost_dead_letters_total", "walpost_events_failed_total"} {
			if n, _ := harness.Metric(t.Context(), g.admin, counter+`{reason="`+k.reason+`"}`); n < 1 {
				t.Errorf("%s{reason=%q} = %v", counter, k.reason, n)
			}
		}
	}
	if len(list) != len(kinds) {
		t.Errorf("%d dead letters, want %d", len(list), len(kinds))
	}
	checkDeadTopic(t, g, payloads)
	if code, log := g.command("dlq", "retry", "--all"); code != 1 || !strings.Contains(log, fmt.Sprintf("%d of %[1]d dead letters failed again", len(kinds))) {
		t.Errorf("retry: exit %d\n%s", code, log)
	}
	if log := g.walpost("dlq", "retry", "--key", "k1", "--to", g.topic); !strings.Contains(log, "published 2") {
		t.Errorf("retry to another topic: %s", log)
	}
	if log := g.walpost("dlq", "discard", "--all", "--with-parked"); !strings.Contains(log, "settled 6") {
		t.Errorf("discard: %s", log)
	}
	g.stop(p)
	for _, line := range strings.Split(p.Log(), "\n") {
		_, line, _ = strings.Cut(line, " level=") // a time may hold the same digits
		if strings.Contains(line, "1.50") || strings.Contains(line, `"k6"`) {
			t.Errorf("a payload or a key is in the log: %s", line)
		}
	}
}

// checkDeadTopic wants the events in the topic as they were to be published, with
// headers of ours behind theirs.
func checkDeadTopic(t *testing.T, g *graveyard, payloads map[string]string) {
	t.Helper()
	seen := 0
	err := harness.Consume(t.Context(), g.brokers, []string{g.dlq}, func(rec *kgo.Record, _ int32) {
		headers := map[string]string{}
		for _, h := range rec.Headers {
			headers[h.Key] = string(h.Value)
		}
		want, ok := payloads[headers["id"]]
		if headers["walpost-dlq-kind"] != "dead" || !ok {
			return
		}
		seen++
		if string(rec.Value) != want || rec.Headers[0].Key != "id" || headers["walpost-dlq-id"] != headers["id"] ||
			headers["walpost-dlq-reason"] == "" || headers["walpost-dlq-lsn"] == "" || headers["walpost-dlq-ordinal"] != "1" || headers["walpost-dlq-table"] != "public.outbox" {
			t.Errorf("dead letter %v with %d bytes", headers, len(rec.Value))
		}
	})
	if err != nil || seen != len(payloads) {
		t.Errorf("%d dead letters in the topic, %v, want %d", seen, err, len(payloads))
	}
}

// Discard drops the dead letter and publishes what is parked, or drops that too. A
// request that nobody answers says so, stays, and is carried out later.
func TestDeadLetterDiscard(t *testing.T) {
	g := newGraveyard(t)
	if code, log := g.command("dlq", "list"); code != 1 || !strings.Contains(log, "does not exist") || !strings.Contains(log, "hint: ") {
		t.Errorf("list without a topic: exit %d\n%s", code, log)
	}
	p := g.start("run")
	for _, key := range []string{"a", "b", "c"} {
		g.write(key, key+"1", tooLarge)
		g.write(key, key+"2", 10)
	}
	g.caughtUp(time.Minute)
	for _, args := range [][]string{{"dlq", "retry"}, {"dlq", "discard", "x", "--all"}, {"dlq", "show"}, {"dlq", "retry", "--all", "--wait", "0s"}} {
		if code, log := g.command(args...); code != 2 {
			t.Errorf("%v: exit %d, want 2\n%s", args, code, log)
		}
	}
	if code, log := g.command("dlq", "discard", "--key", "nobody"); code != 1 || !strings.Contains(log, "hint: walpost dlq list") {
		t.Errorf("discard of nothing: exit %d\n%s", code, log)
	}
	var answer struct{ Freed, Published, Discarded int }
	if err := json.Unmarshal([]byte(g.walpost("dlq", "discard", g.ids["a1"], "-o", "json")), &answer); err != nil || answer.Freed != 1 || answer.Published != 1 || answer.Discarded != 1 {
		t.Errorf("discard: %+v, %v", answer, err)
	}
	g.want("a", "a2")
	g.walpost("dlq", "discard", "--key", "b", "--with-parked")
	g.write("b", "b3", 10)
	g.caughtUp(time.Minute)
	g.want("b", "b3")
	g.stop(p)

	if code, log := g.command("dlq", "discard", "--key", "c", "--wait", "1s"); code != 1 || !strings.Contains(log, "no instance answered within 1s") || !strings.Contains(log, "hint: ") {
		t.Errorf("discard without an instance: exit %d\n%s", code, log)
	}
	p = g.start("run")
	harness.Eventually(t, time.Minute, "the request is carried out", func() bool { return len(g.list()) == 0 })
	g.want("c", "c2")
	g.stop(p)
}

// A retry of many parked events is cut by kill -9, again and again: the next instance
// carries it out, in order, while new events of the key come.
func TestDeadLetterRetryInterrupted(t *testing.T) {
	g := newGraveyard(t)
	p := g.start("run")
	g.write("a", "a0", tooLarge)
	if _, err := g.conn.Exec(t.Context(), `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq)
		SELECT gen_random_uuid(), 'order', 'a', 'created', jsonb_build_object('note', 'n' || i, 'fill', repeat('x', 500)), i FROM generate_series(1, 20000) i`); err != nil {
		t.Fatal(err)
	}
	g.caughtUp(time.Minute)
	g.raiseLimit()
	asked := g.start("dlq", "retry", "--all", "--wait", "2m")
	for n := range 5 {
		time.Sleep(time.Duration(50+n*100) * time.Millisecond)
		p.Signal(syscall.SIGKILL)
		<-p.Exited()
		p = g.start("run")
		g.write("a", fmt.Sprint("late", n), 10)
	}
	if code := g.wait(asked, 2*time.Minute); code != 0 {
		t.Fatalf("retry: exit %d\n%s", code, asked.Log())
	}
	g.write("a", "last", 10)
	g.caughtUp(time.Minute)
	want := []string{"a0"}
	for n := range 20_000 {
		want = append(want, fmt.Sprint("n", n+1))
	}
	want = append(want, "late0", "late1", "late2", "late3", "late4", "last")
	if got := g.notes(g.topic)["a"]; !slices.Equal(got, want) {
		t.Errorf("published %d events, want %d in order", len(got), len(want))
	}
	g.stop(p)
}

// A row that the dead-letter topic itself does not take stops the stream, and so does
// poison without dead letters, each with what to do.
func TestDeadLetterStops(t *testing.T) {
	t.Run("TopicTooSmall", func(t *testing.T) {
		g := newGraveyard(t)
		if _, err := envtest.Admin(t, g.brokers).CreateTopic(t.Context(), 1, 1, nil, g.dlq); err != nil {
			t.Fatal(err)
		}
		p := g.start("run")
		g.write("a", "a1", tooLarge)
		if code := g.wait(p, time.Minute); code != 1 || !strings.Contains(p.Log(), "hint: raise the max.message.bytes of topic "+g.dlq) || !strings.Contains(p.Log(), g.ids["a1"]) {
			t.Errorf("exit %d\n%s", code, p.Log())
		}
		if !strings.Contains(p.Log(), "level=WARN") || !strings.Contains(p.Log(), "retention.ms to -1") {
			t.Errorf("no warning about the retention:\n%s", p.Log())
		}
	})
	t.Run("Stop", func(t *testing.T) {
		g := newGraveyard(t)
		g.set("DELIVERY_POISON=stop")
		p := g.start("run")
		g.write("a", "a1", tooLarge)
		g.write("b", "b1", 10)
		if code := g.wait(p, time.Minute); code != 1 || !strings.Contains(p.Log(), "or set delivery.poison to dead-letter") || !strings.Contains(p.Log(), g.ids["a1"]) {
			t.Errorf("exit %d\n%s", code, p.Log())
		}
		g.want("b")
	})
}
