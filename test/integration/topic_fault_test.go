package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// The topic is deleted under load and created again: what was acknowledged is gone with
// it, and from there on each partition of the new one has every event, in order.
func TestTopicCreatedAgain(t *testing.T) {
	for _, guarantee := range []string{"at-least-once", "exactly-once"} {
		t.Run(guarantee, func(t *testing.T) {
			s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
			s.set("DELIVERY_GUARANTEE=" + guarantee)
			if guarantee == "exactly-once" {
				s.set("CHECKPOINT_TOPIC=" + s.topic + ".progress")
			}
			admin := envtest.Admin(t, s.brokers)
			p := s.start("run")
			const rounds, n = 2, 20_000
			for round := range int64(rounds) {
				before, filled := s.offsets(), make(chan error, 1)
				go func() {
					filled <- harness.Fill(t.Context(), s.db.Connect(t), harness.OneRow, round*n+1, (round+1)*n)
				}()
				s.arrived(before+n/20, time.Minute)
				if _, err := admin.DeleteTopic(t.Context(), s.topic); err != nil {
					t.Fatal(err)
				}
				harness.Eventually(t, 20*time.Second, "/readyz 503 with the topic and the reason", func() bool {
					code, text := s.ready()
					return code == 503 && strings.Contains(text, "UNKNOWN_TOPIC")
				})
				if _, err := admin.CreateTopic(t.Context(), partitions, 1, nil, s.topic); err != nil {
					t.Fatal(err)
				}
				back := time.Now()
				s.isReady(30 * time.Second)
				ready := time.Since(back)
				if err := <-filled; err != nil {
					t.Fatal(err)
				}
				s.caughtUp(time.Minute)
				fmt.Printf("FIGURES topic created again, %s: ready after %.1f s; %s\n", guarantee, ready.Seconds(), s.isTail())
			}
			s.stop(p)
			if !strings.Contains(p.Log(), "hint=") {
				t.Errorf("no hint:\n%s", p.Log())
			}
		})
	}
}

// isTail wants each partition of the topic to hold the last events that belong there,
// each once and in order. It returns how many there are.
func (s *stage) isTail() string {
	s.t.Helper()
	ledger, err := harness.ReadLedger(s.t.Context(), s.conn, "outbox", "payload::text")
	if err != nil {
		s.t.Fatal(err)
	}
	var want, got [partitions][]int64
	for _, e := range ledger {
		p := harness.Murmur2Partition([]byte(e.Key), partitions)
		want[p] = append(want[p], e.Seq)
	}
	err = harness.ConsumeCommitted(s.t.Context(), s.brokers, []string{s.topic}, func(r *kgo.Record, _ int32) {
		if e := ledger[uuid.MustParse(string(r.Headers[0].Value))]; e != nil {
			got[r.Partition] = append(got[r.Partition], e.Seq)
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	total := 0
	for p := range want {
		slices.Sort(want[p])
		total += len(got[p])
		if tail := want[p][max(0, len(want[p])-len(got[p])):]; len(got[p]) == 0 || !slices.Equal(got[p], tail) {
			s.t.Errorf("partition %d holds %d events, and not the last of its %d in order", p, len(got[p]), len(want[p]))
		}
	}
	return fmt.Sprintf("%d of %d events are in the new topic, the last ones of each partition", total, len(ledger))
}

// What a topic takes is lowered under a running walpost: batches that were right are
// sent again in smaller ones, and only an event that does not fit by itself is poison.
func TestLimitLowered(t *testing.T) {
	const size, lowered = 50_000, "20000"
	start := func(t *testing.T, settings ...string) (*graveyard, *harness.Process) {
		g := newGraveyard(t)
		g.set("KAFKA_COMPRESSION=none") // the fill would be a few bytes
		g.set(settings...)
		p := g.start("run")
		g.write("a", "a1", size)
		g.caughtUp(time.Minute)
		g.setLimit(lowered)
		// In one transaction, so that they fill batches as large as they were.
		g.db.Exec(t, `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq)
			SELECT gen_random_uuid(), 'order', 'small', 'created', jsonb_build_object('note', 'n' || i, 'fill', repeat('x', 1000)), i FROM generate_series(1, 2000) i`)
		g.caughtUp(time.Minute)
		if got := g.notes(g.topic)["small"]; len(got) != 2000 || got[0] != "n1" || got[1999] != "n2000" {
			t.Errorf("%d small events are in the topic, want all 2000 in order", len(got))
		}
		g.write("a", "a2", size)
		g.write("a", "a3", 10)
		g.write("b", "b1", 10)
		return g, p
	}
	t.Run("Stop", func(t *testing.T) {
		g, p := start(t, "DELIVERY_POISON=stop")
		if code := g.wait(p, time.Minute); code != 1 || !strings.Contains(p.Log(), g.ids["a2"]) || !strings.Contains(p.Log(), "hint: raise the topic's max.message.bytes") {
			t.Errorf("exit %d\n%s", code, p.Log())
		}
		g.want("a", "a1")
		g.raiseLimit()
		p = g.start("run")
		g.caughtUp(time.Minute)
		g.want("a", "a1", "a2", "a3")
		g.want("b", "b1")
		g.stop(p)
	})
	t.Run("DeadLetter", func(t *testing.T) {
		g, p := start(t)
		g.caughtUp(time.Minute)
		g.want("a", "a1")
		g.want("b", "b1")
		if list := g.list(); len(list) != 1 || list[0].ID != g.ids["a2"] || list[0].Reason != "oversize" || list[0].Parked != 1 {
			t.Errorf("dead letters %+v, want a2, oversize, with 1 behind it", list)
		}
		g.raiseLimit()
		g.walpost("dlq", "retry", g.ids["a2"])
		g.write("a", "a4", size)
		g.caughtUp(time.Minute)
		g.want("a", "a1", "a2", "a3", "a4")
		g.stop(p)
	})
	t.Run("StopExactlyOnce", func(t *testing.T) {
		g, p := start(t, "DELIVERY_POISON=stop", "DELIVERY_GUARANTEE=exactly-once", "CHECKPOINT_TOPIC="+envtest.Name(t)+".progress")
		if code := g.wait(p, time.Minute); code != 1 || !strings.Contains(p.Log(), g.ids["a2"]) {
			t.Errorf("exit %d\n%s", code, p.Log())
		}
		g.raiseLimit()
		p = g.start("run")
		g.caughtUp(time.Minute)
		g.stop(p)
		g.committed("a", "a1", "a2", "a3")
		g.committed("b", "b1")
	})
}

// committed wants what a consumer of committed records sees of a key, each once.
func (g *graveyard) committed(key string, want ...string) {
	g.t.Helper()
	var got []string
	err := harness.ConsumeCommitted(g.t.Context(), g.brokers, []string{g.topic}, func(r *kgo.Record, _ int32) {
		for note, id := range g.ids {
			if string(r.Key) == key && string(r.Headers[0].Value) == id {
				got = append(got, note)
			}
		}
	})
	if err != nil || !slices.Equal(got, want) {
		g.t.Errorf("key %s: committed %v, %v, want %v", key, got, err, want)
	}
}
