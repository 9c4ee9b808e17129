package kafka

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

func newNotes(t *testing.T, cfg Config, topic string) *Notes {
	t.Helper()
	n, err := NewNotes(cfg, topic)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func (n *Notes) want(t *testing.T, key, value string) {
	t.Helper()
	got, err := n.Read(within(t, testTimeout), key)
	if err != nil || string(got) != value {
		t.Errorf("Read(%s) = %q, %v, want %q", key, got, err, value)
	}
}

func (n *Notes) put(t *testing.T, key string, value []byte) {
	t.Helper()
	if err := n.Write(within(t, testTimeout), key, value); err != nil {
		t.Fatalf("Write(%s) = %v", key, err)
	}
}

// The last note of a key is read, until it is removed, beside many of others. The topic is
// made compacted where topics are created.
func TestNotes(t *testing.T) {
	c := newCluster(t)
	n := newNotes(t, Config{Brokers: c.ListenAddrs(), CreateTopics: true}, "")
	n.want(t, "a", "")
	n.put(t, "a", []byte("1"))
	configs, err := envtest.Admin(t, c.ListenAddrs()).DescribeTopicConfigs(t.Context(), ProgressTopic)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range configs[0].Configs {
		if kv.Key == "cleanup.policy" && kv.MaybeValue() != "compact" {
			t.Errorf("cleanup.policy = %q", kv.MaybeValue())
		}
	}
	n.put(t, "a", []byte("2"))
	for i := range firstWindow + 10 {
		n.put(t, "b", fmt.Append(nil, i))
	}
	n.want(t, "a", "2")
	n.put(t, "a", nil)
	n.want(t, "a", "")
	n.want(t, "b", fmt.Sprint(firstWindow+9))
	if err := n.Ping(within(t, testTimeout)); err != nil {
		t.Errorf("Ping() = %v", err)
	}
}

// Notes are nothing to a checkpoint in the same topic, nor it to them.
func TestNotesBesideCheckpoints(t *testing.T) {
	c := newCluster(t)
	x := acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs()}, ""))
	if err := x.Save(t.Context(), pos(10)); err != nil {
		t.Fatal(err)
	}
	n := newNotes(t, Config{Brokers: c.ListenAddrs()}, "")
	n.put(t, "published/7-s/t", []byte("note"))
	if cp, err := x.Load(t.Context()); err != nil || cp.Position != pos(10) {
		t.Errorf("Load() = %+v, %v, want what was saved", cp, err)
	}
	acquired(t, x)
	if err := x.Save(t.Context(), pos(20)); err != nil {
		t.Fatal(err)
	}
	n.want(t, "published/7-s/t", "note")
	n.put(t, "published/7-s/t", nil)
	if cp, err := x.Load(t.Context()); err != nil || cp.Position != pos(20) {
		t.Errorf("Load() = %+v, %v, want what was saved", cp, err)
	}
}

// What only an operator can mend is said at once, and is no [cdc.RefusedError].
func TestNotesUnusable(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, ProgressTopic))
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrUnusable) || errors.As(err, new(*cdc.RefusedError)) {
			t.Errorf("%s = %v, want ErrUnusable", what, err)
		}
	}
	missing := newNotes(t, Config{Brokers: c.ListenAddrs()}, "missing")
	_, err := missing.Read(within(t, testTimeout), "a")
	check("Read() of no topic", err)
	check("Write() to no topic", missing.Write(within(t, testTimeout), "a", nil))

	n := newNotes(t, Config{Brokers: c.ListenAddrs()}, "")
	n.put(t, "a", []byte("1"))
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: ProgressTopic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	begun := time.Now()
	check("Write() without the right", n.Write(within(t, testTimeout), "a", nil))
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: ProgressTopic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	_, err = n.Read(within(t, testTimeout), "a")
	check("Read() without the right", err)
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("to say so took %s", took)
	}
	if _, err := NewNotes(Config{Brokers: c.ListenAddrs()}, "a/b"); err == nil {
		t.Error("NewNotes() takes an illegal name")
	}
}

// Without brokers each call ends with its context, and says what it could not do.
func TestNotesWithoutBrokers(t *testing.T) {
	n := newNotes(t, Config{Brokers: []string{"127.0.0.1:1"}}, "")
	for what, call := range map[string]func(context.Context) error{
		"Read":  func(ctx context.Context) error { _, err := n.Read(ctx, "a"); return err },
		"Write": func(ctx context.Context) error { return n.Write(ctx, "a", nil) },
		"Ping":  n.Ping,
	} {
		begun := time.Now()
		err := call(within(t, 300*time.Millisecond))
		if err == nil || errors.Is(err, ErrUnusable) || time.Since(begun) > 5*time.Second {
			t.Errorf("%s() = %v after %s", what, err, time.Since(begun))
		}
	}
}
