package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// progressTopic makes the topic of what is noted of how far databases are published.
func progressTopic(t *testing.T, brokers []string) string {
	t.Helper()
	topic := envtest.CreateTopic(t, brokers, 1, map[string]*string{"cleanup.policy": new("compact")})
	harness.Eventually(t, 30*time.Second, "the topic, by what a broker says", func() bool {
		topics, err := envtest.Admin(t, brokers).ListTopics(t.Context(), topic)
		return err == nil && topics.Error() == nil
	})
	return topic
}

// production is a server that can be copied, with an outbox.
func production(t *testing.T, settings ...string) (*stage, *testenv.PostgresServer) {
	t.Helper()
	brokers := envtest.Kafka(t).Addrs()
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{})
	s := newStage(t, envtest.Database{Name: "postgres", DSN: pg.DSN(), SocketDSN: pg.SocketDSN()}, brokers)
	s.set("CHECKPOINT_TOPIC=" + progressTopic(t, brokers))
	s.set(settings...)
	return s, pg
}

// cloned copies the server's disk, and returns the stage of the copy, with the same brokers
// and settings. The sessions of s are new.
func (s *stage) cloned(pg *testenv.PostgresServer) *stage {
	s.t.Helper()
	copied := envtest.NewClone(s.t, pg)
	s.reconnect()
	other := s.twin()
	other.db.DSN, other.db.SocketDSN = copied.DSN(), copied.SocketDSN()
	other.reconnect()
	other.set("POSTGRES_DSN=" + other.dsnWith(s.t, other.slot, "x"))
	return other
}

// marks returns what is noted in the progress topic by key, the last of each.
func (s *stage) marks() map[string]string {
	s.t.Helper()
	topic := ""
	for _, kv := range s.env {
		if name, value, _ := strings.Cut(kv, "="); name == "WALPOST_CHECKPOINT_TOPIC" {
			topic = value
		}
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.KeepControlRecords(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	ends, err := kadm.NewClient(c).ListEndOffsets(s.t.Context(), topic)
	if err != nil || ends.Error() != nil {
		s.t.Fatal(err, ends.Error())
	}
	marks := map[string]string{}
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	for end, at := ends[topic][0].Offset, int64(0); at < end; {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			s.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if at = r.Offset + 1; !r.Attrs.IsControl() {
				marks[string(r.Key)] = string(r.Value)
			}
		})
	}
	return marks
}

// onlyMark returns the one mark that there is.
func (s *stage) onlyMark() (m struct {
	Slot, Owner, Store, LSN string
	Epoch                   int64
},
) {
	s.t.Helper()
	marks := s.marks()
	if len(marks) != 1 {
		s.t.Fatalf("%d marks, want 1: %v", len(marks), marks)
	}
	for key, value := range marks {
		if !strings.HasPrefix(key, "published/") {
			s.t.Errorf("key %q can be taken for a checkpoint's", key)
		}
		if err := json.Unmarshal([]byte(value), &m); err != nil {
			s.t.Fatal(err)
		}
	}
	return m
}

// refusedAsCopy starts walpost on a copy, twice: a supervisor would.
func (s *stage) refusedAsCopy(why string) {
	s.t.Helper()
	t := s.t.(*testing.T)
	before, state := s.offsets(), s.state(t)
	for range 2 {
		p := s.start("run", "--log.level", "error")
		if code := s.wait(p, 30*time.Second); code != 1 {
			t.Errorf("exit %d, want 1", code)
		}
		checkMessage(t, p.Log(), "it is a copy of another server, or was set back to an earlier state", "walpost checkpoint set LSN --force")
		if !strings.Contains(p.Log(), why) {
			t.Errorf("want %q in\n%s", why, p.Log())
		}
	}
	if after := s.state(t); after != state {
		t.Errorf("the database was changed:\nbefore %s\nafter  %s", state, after)
	}
	if after := s.offsets(); after != before {
		t.Errorf("%d records were published by the copy", after-before)
	}
}

// A copy of production's disk that is pointed at the same brokers is refused, and production
// goes on. Once it is said to take production's place it starts.
func TestCloneIsRefused(t *testing.T) {
	for _, store := range []string{"postgres", "slot"} {
		t.Run(store, func(t *testing.T) {
			s, pg := production(t, "CHECKPOINT_STORE="+store)
			p := s.start("run")
			s.fill(harness.OneRow, 1, 100)
			s.caughtUp(30 * time.Second)
			s.stop(p)
			clone := s.cloned(pg)
			p = s.start("run")
			s.fill(harness.OneRow, 101, 1000)
			s.caughtUp(30 * time.Second)
			s.stop(p)
			m := s.onlyMark()
			at, _, _ := strings.Cut(s.walpost("checkpoint", "show"), "\n")
			if m.LSN != at || m.Slot != s.slot || m.Store != store {
				t.Errorf("noted %+v, want the slot's position %s", m, at)
			}
			p = s.start("run")
			s.isReady(30 * time.Second)

			clone.fill(harness.OneRow, 2001, 2010)
			clone.refusedAsCopy("was published up to " + at + " by " + m.Owner[:strings.LastIndex(m.Owner, "/")])

			s.fill(harness.OneRow, 1001, 1100)
			s.caughtUp(30 * time.Second)
			if r := s.check(); r.Duplicated > 0 && store != "slot" { // which goes back when the server is stopped
				t.Errorf("%d duplicates", r.Duplicated)
			}
			s.stop(p)

			at, _, _ = strings.Cut(clone.walpost("checkpoint", "show"), "\n")
			clone.walpost("checkpoint", "set", at, "--force")
			p = clone.start("run")
			clone.arrived(1110, 30*time.Second)
			clone.caughtUp(30 * time.Second)
			clone.stop(p)
		})
	}
}

// A copy that has written more WAL than production since, and one of a production that has
// published nothing since but was started again, are known by the checkpoint.
func TestCloneIsRefusedByCheckpoint(t *testing.T) {
	s, pg := production(t)
	p := s.start("run")
	s.fill(harness.OneRow, 1, 100)
	s.caughtUp(30 * time.Second)
	s.stop(p)
	clone := s.cloned(pg)

	clone.exec("CREATE TABLE masked AS SELECT repeat('x', 100) FROM generate_series(1, 50000)") // more WAL than production writes

	p = s.start("run")
	s.isReady(30 * time.Second)
	s.stop(p)
	clone.refusedAsCopy("in epoch 2 of its checkpoint")

	p = s.start("run")
	s.fill(harness.OneRow, 101, 200)
	s.caughtUp(30 * time.Second)
	s.stop(p)
	clone.exec("UPDATE walpost.checkpoint SET epoch = 3") // as if it was copied after that start
	clone.refusedAsCopy("beyond the checkpoint here")

	clone.set("OUTBOX_TOPIC=" + envtest.CreateTopic(t, s.brokers, partitions, nil)) // the other way out
	p = clone.start("run")
	clone.isReady(30 * time.Second)
	clone.stop(p)
}

// What is noted is of what is saved, soon after a start, seldom while events flow, and once
// more at a stop; also after a kill it is never ahead of the database.
func TestMarksFollowSaves(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.set("CHECKPOINT_TOPIC="+progressTopic(t, s.brokers), "CHECKPOINT_INTERVAL=20ms")
	for range 3 {
		p := s.start("run")
		s.fill(harness.OneRow, 1, 500)
		s.caughtUp(30 * time.Second)
		p.Signal(syscall.SIGKILL)
		s.wait(p, 30*time.Second)
		p = s.start("run")
		s.isReady(30 * time.Second)
		s.stop(p)
		var at string
		if err := s.conn.QueryRow(t.Context(), "SELECT lsn::text FROM walpost.checkpoint WHERE slot = $1", s.slot).Scan(&at); err != nil {
			t.Fatal(err)
		}
		if m := s.onlyMark(); m.LSN != at {
			t.Errorf("%s is noted after a stop, and %s is saved", m.LSN, at)
		}
		s.exec("TRUNCATE outbox")
	}
}

// occupy writes another's note to a topic: of an empty one it is not known who may read it.
func occupy(t *testing.T, brokers []string, topic string) {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte("other"), Value: []byte("{}")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// Where the topic may not be used, or is not there, walpost streams all the same, and says
// once what that means.
func TestMarksWithoutRights(t *testing.T) {
	k := newSecureKafka(t)
	for _, tt := range []struct {
		name     string
		settings []string
		missing  bool
		right    kadm.ACLOperation // to the topic
		why      string
	}{
		{name: "NoTopic", missing: true, right: kadm.OpWrite, why: "UNKNOWN_TOPIC_OR_PARTITION"},
		{name: "MayNotCreate", missing: true, settings: []string{"KAFKA_CREATE_TOPICS=true"}, right: kadm.OpWrite, why: "TOPIC_AUTHORIZATION_FAILED"},
		{name: "MayNotSee", why: "TOPIC_AUTHORIZATION_FAILED"},
		{name: "MayNotRead", right: kadm.OpWrite, why: "TOPIC_AUTHORIZATION_FAILED"},
		{name: "MayNotWrite", right: kadm.OpRead, why: "TOPIC_AUTHORIZATION_FAILED"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t, envtest.NewDatabase(t), k.Addrs())
			topic := s.topic + ".progress"
			if !tt.missing {
				topic = progressTopic(t, k.Addrs())
				occupy(t, k.Addrs(), topic)
			}
			s.set(k.login(saslListener, "SCRAM-SHA-512", kafkaPassword)...)
			s.set("CHECKPOINT_TOPIC=" + topic)
			s.set(tt.settings...)
			allow := func(topic string, op kadm.ACLOperation) {
				k.create(t, kadm.NewACLs().Topics(topic).ResourcePatternType(kadm.ACLPatternLiteral).Operations(op).Allow("User:"+kafkaUser).AllowHosts("*"))
			}
			allow(s.topic, kadm.OpWrite)
			if tt.right != kadm.OpUnknown {
				allow(topic, tt.right)
			}
			p := s.start("run")
			for i := range int64(3) {
				s.fill(harness.OneRow, 1+100*i, 100+100*i)
				s.caughtUp(30 * time.Second)
			}
			s.isReady(30 * time.Second)
			if tt.name == "NoTopic" || tt.name == "MayNotSee" || tt.name == "MayNotRead" {
				if bad, _ := s.doctor(); !strings.Contains(fmt.Sprintf("%+v", bad), "would not be noticed") {
					t.Errorf("doctor does not say so: %+v", bad)
				}
			}
			const said = `level=INFO msg="a copy of the server's disk at the same brokers would not be noticed`
			harness.Eventually(t, 20*time.Second, "a line that says so", func() bool { return strings.Contains(p.Log(), said) })
			s.stop(p)
			if n := strings.Count(p.Log(), said); n != 1 || !strings.Contains(p.Log(), tt.why) || strings.Contains(p.Log(), "level=WARN") {
				t.Errorf("said %d times, want once with %s, and no warning:\n%s", n, tt.why, p.Log())
			}
			if r := s.check(); r.Duplicated > 0 {
				t.Errorf("%d duplicates", r.Duplicated)
			}
		})
	}
}

// From at-least-once to exactly-once, and back, in one topic: what is noted is no checkpoint,
// and what stays of it refuses nothing.
func TestMarksBesideExactlyOnce(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.set("CHECKPOINT_TOPIC=" + progressTopic(t, s.brokers))
	n := int64(0)
	run := func(settings ...string) {
		before := s.env
		s.set(settings...)
		p := s.start("run")
		s.fill(harness.OneRow, n+1, n+100)
		n += 100
		s.caughtUp(30 * time.Second)
		s.stop(p)
		s.env = before
	}
	run()
	before := s.onlyMark()
	for range 2 {
		run("DELIVERY_GUARANTEE=exactly-once")
	}
	marks := s.marks()
	if len(marks) != 2 {
		t.Errorf("%d keys, want the checkpoint's beside the mark's: %v", len(marks), marks)
	}
	for range 2 { // as the README has it
		s.exec("DELETE FROM walpost.checkpoint")
		run()
	}
	for key, value := range s.marks() {
		if strings.HasPrefix(key, "published/") && strings.Contains(value, before.LSN) {
			t.Errorf("the mark is still %s", value)
		}
	}
	if r := s.compare(harness.CheckCommitted); r.Duplicated > 0 {
		t.Errorf("%d duplicates", r.Duplicated)
	}
}

// A server whose checkpoint was removed is no copy of itself, also when walpost is killed
// before anything is noted of the new one.
func TestMarksOfRemovedCheckpoint(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.set("CHECKPOINT_TOPIC=" + progressTopic(t, s.brokers))
	for range 3 { // so that the epoch is higher than the first
		p := s.start("run")
		s.fill(harness.OneRow, 1, 100)
		s.caughtUp(30 * time.Second)
		s.stop(p)
	}
	remove := func() { s.exec("DELETE FROM walpost.checkpoint WHERE slot = $1", s.slot) }

	remove()
	p := s.start("run")
	harness.Eventually(t, 30*time.Second, "a position is saved", func() bool {
		return s.number("SELECT count(*) FROM walpost.checkpoint WHERE slot = $1 AND lsn > '0/0'", s.slot) == 1
	})
	p.Signal(syscall.SIGKILL)
	<-p.Exited()
	p = s.start("run")
	s.isReady(30 * time.Second)
	s.stop(p)

	remove()
	var at string
	must(t, s.conn.QueryRow(t.Context(), "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", s.slot).Scan(&at))
	s.walpost("checkpoint", "set", at)
	p = s.start("run")
	s.isReady(30 * time.Second)
	s.stop(p)
}
