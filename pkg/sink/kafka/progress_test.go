package kafka

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// A topic that forgets is no place for a checkpoint, and one that is missing is made
// compacted.
func TestProgressTopic(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs()}, "made"))
	admin := envtest.Admin(t, c.ListenAddrs())
	configs, err := admin.DescribeTopicConfigs(t.Context(), "made")
	if err != nil {
		t.Fatal(err)
	}
	policy := ""
	for _, kv := range configs[0].Configs {
		if kv.Key == "cleanup.policy" {
			policy = kv.MaybeValue()
		}
	}
	if policy != "compact" {
		t.Errorf("cleanup.policy = %q, want compact", policy)
	}
	x := newTransactional(t, Config{Brokers: c.ListenAddrs()}, testTopic)
	var refused *cdc.RefusedError
	if _, err := x.Acquire(t.Context()); !errors.As(err, &refused) || refused.Hint == "" {
		t.Errorf("Acquire() with a topic that forgets = %v, want a refusal with a hint", err)
	}
	if _, err := admin.CreateTopic(t.Context(), 1, 1, map[string]*string{"cleanup.policy": &policy}, "foreign"); err != nil {
		t.Fatal(err)
	}
	x = newTransactional(t, Config{Brokers: c.ListenAddrs()}, "foreign")
	if err := x.base.client.Load().ProduceSync(t.Context(), &kgo.Record{Topic: "foreign", Key: []byte("7-s"), Value: []byte("hello")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Load(t.Context()); !errors.As(err, &refused) || refused.Hint == "" {
		t.Errorf("Load() of what is no checkpoint = %v, want a refusal with a hint", err)
	}
}

// A progress record names the topics of its transaction, up to maxTopicsKept of the longest
// names, whatever the limit for events.
func TestProgressRecordOfManyTopics(t *testing.T) {
	c := newCluster(t)
	topics := make([]string, maxTopicsKept)
	for i := range topics {
		topics[i] = fmt.Sprintf("%0*d", maxTopicName, i)
	}
	x := acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs(), CreateTopics: true, MaxMessageBytes: minMessageBytes}, ""))
	for _, topic := range topics {
		if err := x.Produce(t.Context(), record(topic, "k", "v"), new(answers).done); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Save(within(t, testTimeout), pos(10)); err != nil {
		t.Fatal(err)
	}
	if got := x.have.Topics; !slices.Equal(got, topics) {
		t.Errorf("%d topics are saved, want %d", len(got), len(topics))
	}
	acquired(t, x)
	if cp, err := x.Load(t.Context()); err != nil || cp.Position != pos(10) {
		t.Errorf("Load() = %+v, %v, want what was saved", cp, err)
	}
}

// An open transaction of another slot does not hide what was committed, nor does a
// long tail of other slots' records and markers.
func TestTransactionalBesideOthers(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	mine := acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs()}, ""))
	if err := mine.Save(t.Context(), pos(10)); err != nil {
		t.Fatal(err)
	}
	other, err := NewTransactional(TransactionalConfig{
		Config: mine.cfg.Config, Slot: "other", SystemID: mine.cfg.SystemID,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	acquired(t, other)
	for n := range cdc.LSN(firstWindow) {
		if err := other.Save(t.Context(), pos(100+n)); err != nil {
			t.Fatal(err)
		}
	}
	next := other.have
	next.LSN++
	r, err := next.record("walpost.progress")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.begun(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.current.Load().client.Load().ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if cp, err := mine.Load(t.Context()); err != nil || cp.Position != pos(10) {
		t.Errorf("Load() = %+v, %v, want what was saved", cp, err)
	}
	if cp, err := other.Load(t.Context()); err != nil || cp.LSN != 100+firstWindow-1 {
		t.Errorf("Load() of the other = %+v, %v, want what was committed", cp, err)
	}
}

// A refused batch costs its transaction. The next ones narrow it down, until a
// record is refused alone, which is then poison.
func TestTransactionalNarrows(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	x := acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs()}, ""))
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Err: kerr.InvalidRecord, Count: -1})
	for epoch := range 12 {
		a := new(answers)
		var err error
		for i := 0; i < 50 && err == nil; i++ {
			err = x.Produce(t.Context(), record(testTopic, "k", fmt.Sprint(i, strings.Repeat("x", 1000))), a.done)
		}
		if err == nil {
			err = x.Save(within(t, testTimeout), pos(10))
		}
		if err == nil {
			t.Fatal("Save() = nil though the broker refused every batch")
		}
		var poison *cdc.PoisonError
		acquired(t, x)
		for _, err := range a.list() {
			if errors.As(err, &poison) {
				t.Logf("poison in epoch %d: %v", epoch, poison)
				return
			}
		}
	}
	t.Error("no record is poison after 12 epochs")
}
