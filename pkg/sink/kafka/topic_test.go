package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/pkg/cdc"
)

func TestTopicNames(t *testing.T) {
	long := strings.Repeat("x", maxTopicName)
	for _, test := range []struct {
		name string
		want bool
	}{
		{"orders", true},
		{"a.b_c-D9", true},
		{"...", true},
		{long, true},
		{"", false},
		{".", false},
		{"..", false},
		{long + "x", false},
		{"a b", false},
		{"a/b", false},
		{"é", false},
		{"a\x00", false},
	} {
		if got := isTopicName(test.name); got != test.want {
			t.Errorf("isTopicName(%q) = %t, want %t", test.name, got, test.want)
		}
	}
}

func TestIllegalTopicIsPoisonWithoutBroker(t *testing.T) {
	s := newSink(t, Config{Brokers: []string{"127.0.0.1:1"}})
	err := s.Produce(t.Context(), record("no/topic", "k", "v"), new(answers).done)
	var poison *cdc.PoisonError
	if !errors.As(err, &poison) || poison.Reason != cdc.PoisonTopic {
		t.Errorf("Produce() = %v, want poison for reason %s", err, cdc.PoisonTopic)
	}
}

func TestMissingTopicIsHeld(t *testing.T) {
	c := newCluster(t)
	log := new(logs)
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Logger: log.logger(slog.LevelInfo)})
	a := new(answers)
	ctx, cancel := context.WithCancelCause(t.Context())
	produced := make(chan error, 1)
	go func() { produced <- s.Produce(ctx, record(testTopic, "k", "cut"), a.done) }()
	eventually(t, "Healthy names the topic", func() bool {
		err := s.Healthy(t.Context())
		return contains(err, testTopic) && errors.Is(err, kerr.UnknownTopicOrPartition)
	})
	cause := errors.New("told to stop")
	cancel(cause)
	if err := <-produced; !errors.Is(err, cause) {
		t.Errorf("Produce() = %v, want the context's cause", err)
	}

	go func() { produced <- produceSequence(t.Context(), s, a, 0, 10) }()
	eventually(t, "some attempts", func() bool { return log.count("topic is not ready") >= 1 })
	if err := c.CreateTopic(testTopic, testPartitions, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-produced; err != nil {
		t.Fatalf("Produce() = %v", err)
	}
	flush(t, s)
	checkSequence(t, values(t, c.ListenAddrs(), testTopic), 10)
	if err := s.Healthy(t.Context()); err != nil {
		t.Errorf("Healthy() = %v", err)
	}
	if got := log.count("create the topic, or set kafka.create_topics"); got != 1 {
		t.Errorf("the hint was logged %d times, want once", got)
	}
}

func TestCreateTopics(t *testing.T) {
	c := newCluster(t)
	s := newSink(t, Config{Brokers: c.ListenAddrs(), CreateTopics: true, Partitions: 7, ReplicationFactor: 1})
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Err: kerr.TopicAuthorizationFailed, Count: 2})
	produce(t, s, new(answers), record(testTopic, "k", "v"))
	flush(t, s)
	if got := len(c.PartitionInfos(testTopic)); got != 7 {
		t.Errorf("topic has %d partitions, want 7", got)
	}
}

func TestForbiddenTopicIsHeld(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	s := newSink(t, Config{Brokers: c.ListenAddrs()})
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: testTopic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	produced := make(chan error, 1)
	go func() { produced <- produceSequence(t.Context(), s, new(answers), 0, 1) }()
	eventually(t, "Healthy names the topic", func() bool {
		err := s.Healthy(t.Context())
		return contains(err, testTopic) && errors.Is(err, kerr.TopicAuthorizationFailed)
	})
	h.Remove()
	if err := <-produced; err != nil {
		t.Fatalf("Produce() = %v", err)
	}
	flush(t, s)
}

// TestRaisedLimit raises the topic's limit while the sink runs.
func TestRaisedLimit(t *testing.T) {
	c := newCluster(t)
	if err := c.CreateTopic(testTopic, testPartitions, map[string]string{"max.message.bytes": "2000"}); err != nil {
		t.Fatal(err)
	}
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Compression: "none"})
	a := new(answers)
	for i := range 5 {
		produce(t, s, a, record(testTopic, "key", fmt.Sprint(i)))
	}
	big := strings.Repeat("x", 5000)
	err := s.Produce(t.Context(), record(testTopic, "key", big), a.done)
	var poison *cdc.PoisonError
	if !errors.As(err, &poison) || poison.Reason != cdc.PoisonOversize || !contains(err, "2000") || !contains(err, "50") {
		t.Fatalf("Produce() = %v, want poison that names both sizes", err)
	}
	setLimit(t, c, "10000")
	produce(t, s, a, record(testTopic, "key", big))
	produce(t, s, a, record(testTopic, "key", "after"))
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Errorf("done(%v), want nil", err)
	}
	for _, p := range values(t, c.ListenAddrs(), testTopic) {
		if len(p) > 0 && (len(p) != 7 || p[5] != big || p[6] != "after") {
			t.Errorf("%d records are durable, want 7, the large one before the last", len(p))
		}
	}
}

// TestTopicCreatedAgain deletes a topic and creates it again, with records in
// flight and without.
func TestTopicCreatedAgain(t *testing.T) {
	for _, inFlight := range []int{0, 50} {
		t.Run(fmt.Sprint(inFlight, " in flight"), func(t *testing.T) {
			c := newCluster(t, kfake.SeedTopics(2, testTopic))
			s := newSink(t, Config{Brokers: c.ListenAddrs()})
			a := new(answers)
			produce(t, s, a, record(testTopic, "key", "before"))
			flush(t, s)
			if err := c.DeleteTopic(testTopic); err != nil {
				t.Fatal(err)
			}
			if err := produceSequence(t.Context(), s, a, 0, inFlight); err != nil {
				t.Fatal(err)
			}
			if err := c.CreateTopic(testTopic, 3, nil); err != nil {
				t.Fatal(err)
			}
			if err := produceSequence(within(t, testTimeout), s, a, inFlight, 100); err != nil {
				t.Fatal(err)
			}
			flush(t, s)
			if err := firstError(a); err != nil {
				t.Errorf("done(%v), want nil", err)
			}
			if got := len(a.list()); got != 101 {
				t.Errorf("done was called %d times, want 101", got)
			}
			checkSequence(t, values(t, c.ListenAddrs(), testTopic), 100)
		})
	}
}

// TestDeletedTopicIsHeld deletes a topic that nobody creates again for a while.
func TestDeletedTopicIsHeld(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(2, testTopic))
	testDeleted(t, c.ListenAddrs(), testTopic)
}

func testDeleted(t *testing.T, brokers []string, topic string) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	log := new(logs)
	s := newSink(t, Config{Brokers: brokers, Logger: log.logger(slog.LevelWarn)})
	a := new(answers)
	produce(t, s, a, record(topic, "key", "old"))
	flush(t, s)
	if _, err := admin.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	produced := make(chan error, 1)
	go func() {
		for i := range 20 {
			if err := s.Produce(t.Context(), record(topic, "key", fmt.Sprint(i)), a.done); err != nil {
				produced <- err
				return
			}
		}
		produced <- nil
	}()
	eventually(t, "Healthy names the topic and the reason", func() bool {
		err := s.Healthy(t.Context())
		return contains(err, topic) && contains(err, "UNKNOWN_TOPIC")
	})
	eventually(t, "a hint", func() bool { return log.count(`hint="create the topic`)+log.count("create it again") > 0 })
	if got := len(a.list()); got > 1 {
		t.Errorf("done was called %d times, want once", got)
	}
	if _, err := admin.CreateTopic(t.Context(), 2, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	if err := <-produced; err != nil {
		t.Fatalf("Produce() = %v", err)
	}
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Errorf("done(%v), want nil", err)
	}
	checkSequence(t, values(t, brokers, topic), 20)
	if err := s.Healthy(t.Context()); err != nil {
		t.Errorf("Healthy() = %v", err)
	}
}

// TestCloseWithOrphans closes the sink before the topic is there again.
func TestCloseWithOrphans(t *testing.T) {
	s, tp := discarding(t)
	a := new(answers)
	if _, err := s.budget.acquire(t.Context(), s.quit, 1, nil); err != nil {
		t.Fatal(err)
	}
	d := &delivery{sink: s, record: record(testTopic, "k", "v"), done: a.done, topic: tp, size: 1}
	d.prepare()
	s.delivered(&d.Record, kerr.UnknownTopicID)
	s.Close()
	if got := a.list(); len(got) != 1 || !errors.Is(got[0], ErrClosed) {
		t.Errorf("done was called with %v, want once, with closed", got)
	}
}

func setLimit(t *testing.T, c *kfake.Cluster, limit string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &limit}}, testTopic)
	if err != nil {
		t.Fatal(err)
	}
}

// TestAddedPartitions adds partitions while the sink runs.
func TestAddedPartitions(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	s := newSink(t, Config{Brokers: c.ListenAddrs()})
	a := new(answers)
	r := record(testTopic, "key", "1")
	r.Partition = 1
	err := s.Produce(t.Context(), r, a.done)
	var poison *cdc.PoisonError
	if !errors.As(err, &poison) || poison.Reason != cdc.PoisonRow {
		t.Fatalf("Produce() = %v, want poison for reason %s", err, cdc.PoisonRow)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).UpdatePartitions(t.Context(), 2, testTopic); err != nil {
		t.Fatal(err)
	}
	produce(t, s, a, r)
	flush(t, s)
	if got := values(t, c.ListenAddrs(), testTopic); len(got[1]) != 1 {
		t.Errorf("durable: %v, want one record in partition 1", got)
	}
}

// TestLargestRecord shows that the size that is checked is the client's own:
// the largest record passes, and one byte more is refused before.
func TestLargestRecord(t *testing.T) {
	for _, limit := range []int{1000, 20_000, defaultMessageBytes, 5_000_000} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			c := newCluster(t)
			if err := c.CreateTopic(testTopic, 1, map[string]string{"max.message.bytes": fmt.Sprint(limit)}); err != nil {
				t.Fatal(err)
			}
			s := newSink(t, Config{Brokers: c.ListenAddrs(), Compression: "none"})
			a := new(answers)
			r := record(testTopic, "key", "")
			r.Headers = []cdc.Header{{Key: "id", Value: []byte("0123")}, {Key: "null"}}
			r.Value = make([]byte, limit-200)
			for batchSize(r) < limit {
				r.Value = append(r.Value, 'x')
			}
			if got := batchSize(r); got != limit {
				t.Fatalf("batchSize() = %d, want %d", got, limit)
			}
			produce(t, s, a, r)
			flush(t, s)
			if err := firstError(a); err != nil {
				t.Errorf("done(%v), want nil", err)
			}
			r.Value = append(r.Value, 'x')
			var poison *cdc.PoisonError
			if err := s.Produce(t.Context(), r, a.done); !errors.As(err, &poison) {
				t.Errorf("Produce() = %v, want poison", err)
			}
		})
	}
}

func TestTimestamps(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	s := newSink(t, Config{Brokers: c.ListenAddrs()})
	for _, test := range []struct {
		at   time.Time
		want bool
	}{
		{time.UnixMilli(0), true},
		{time.UnixMilli(-2), false},
		{cdc.NoTimestamp, true},
		{time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC), true},
		{time.Date(2263, 1, 1, 0, 0, 0, 0, time.UTC), false},
		{time.Date(294276, 12, 31, 0, 0, 0, 0, time.UTC), false},
	} {
		r := record(testTopic, "k", "v")
		r.Timestamp = test.at
		if err := s.Produce(t.Context(), r, new(answers).done); (err == nil) != test.want {
			t.Errorf("Produce() with timestamp %s = %v, want taken: %t", test.at, err, test.want)
		}
	}
	flush(t, s)
}
