package kafka

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// newUnreadable returns a cluster with a topic whose settings nobody may read.
func newUnreadable(t *testing.T, partitions int32, limit int) *kfake.Cluster {
	t.Helper()
	c := newCluster(t)
	if err := c.CreateTopic(testTopic, partitions, map[string]string{"max.message.bytes": fmt.Sprint(limit)}); err != nil {
		t.Fatal(err)
	}
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.DescribeConfigs}, Err: kerr.TopicAuthorizationFailed, Count: -1})
	return c
}

// TestUnreadableSettings lets the broker judge records that are larger than
// Kafka's default limit.
func TestUnreadableSettings(t *testing.T) {
	c := newUnreadable(t, testPartitions, 3_000_000)
	log := new(logs)
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Compression: "none", Logger: log.logger(slog.LevelInfo)})
	a := new(answers)
	large := strings.Repeat("x", 2_000_000)
	want := []string{"before", large, "between", large, "after"}
	for _, v := range want {
		produce(t, s, a, record(testTopic, "key", v))
	}
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Errorf("done(%v), want nil", err)
	}
	checkValues(t, c, want)
	if got := log.count("topic settings are not readable"); got != 1 {
		t.Errorf("logged %d times, want once", got)
	}

	oversize := strings.Repeat("y", 4_000_000)
	produce(t, s, a, record(testTopic, "key", oversize))
	flush(t, s)
	var poison *cdc.PoisonError
	if err := firstError(a); !errors.As(err, &poison) || poison.Reason != cdc.PoisonOversize || !errors.Is(err, kerr.MessageTooLarge) || !contains(err, "4000") {
		t.Errorf("done(%v), want poison for reason %s with the size", err, cdc.PoisonOversize)
	}
	checkValues(t, c, want)
}

// TestLargerThanAnyRequest refuses, without the broker, what no broker takes.
func TestLargerThanAnyRequest(t *testing.T) {
	c := newUnreadable(t, 1, 1<<30)
	s := newSink(t, Config{Brokers: c.ListenAddrs()})
	err := s.Produce(t.Context(), record(testTopic, "key", strings.Repeat("x", maxRequestBytes)), new(answers).done)
	var poison *cdc.PoisonError
	if !errors.As(err, &poison) || poison.Reason != cdc.PoisonOversize {
		t.Errorf("Produce() = %v, want poison for reason %s", err, cdc.PoisonOversize)
	}
}

// checkValues checks what is durable of one key.
func checkValues(t *testing.T, c *kfake.Cluster, want []string) {
	t.Helper()
	var got []string
	for _, p := range values(t, c.ListenAddrs(), testTopic) {
		got = append(got, p...)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("durable: %.2000q\nwant %.2000q", got, want)
	}
}

// TestSmallerBatches hands over records that fit into the topic, in batches that
// do not.
func TestSmallerBatches(t *testing.T) {
	c := newUnreadable(t, 1, 2000)
	log := new(logs)
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Compression: "none", Linger: 50 * time.Millisecond, Logger: log.logger(slog.LevelWarn)})
	a := new(answers)
	const n = 300
	if err := produceSequence(t.Context(), s, a, 0, n); err != nil {
		t.Fatal(err)
	}
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Errorf("done(%v), want nil", err)
	}
	if got := len(a.list()); got != n {
		t.Errorf("done was called %d times, want %d", got, n)
	}
	checkSequence(t, values(t, c.ListenAddrs(), testTopic), n)
	if got := log.count("sending its records in smaller ones"); got != 1 {
		t.Errorf("warned %d times, want once", got)
	}
	if err := s.Healthy(t.Context()); err != nil {
		t.Errorf("Healthy() = %v", err)
	}
}

// TestRandomSizes has records of all sizes around those that were refused and
// taken before, in several partitions.
func TestRandomSizes(t *testing.T) {
	const limit, n, keys = 3000, 400, 6
	for seed := range uint64(4) {
		c := newUnreadable(t, testPartitions, limit)
		s := newSink(t, Config{Brokers: c.ListenAddrs(), Compression: "none", Linger: time.Millisecond})
		a := new(answers)
		rnd := rand.New(rand.NewPCG(seed, 0))
		want := make(map[string][]string)
		for i := range n {
			key := fmt.Sprint("key", rnd.IntN(keys))
			v := fmt.Sprint(i, strings.Repeat("x", rnd.IntN(limit-200)))
			want[key] = append(want[key], v)
			produce(t, s, a, record(testTopic, key, v))
		}
		flush(t, s)
		if err := firstError(a); err != nil {
			t.Errorf("seed %d: done(%v), want nil", seed, err)
		}
		got := make(map[string][]string)
		for _, p := range readTopic(t, c.ListenAddrs(), testTopic) {
			for _, r := range p {
				got[string(r.Key)] = append(got[string(r.Key)], string(r.Value))
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("seed %d: what is durable is not what was handed over, in its order", seed)
		}
	}
}

// TestRefusedRow has the broker refuse every batch that one row is in: the row is
// found, and what is before it in its batch is delivered.
func TestRefusedRow(t *testing.T) {
	for _, test := range []struct {
		err  *kerr.Error
		want cdc.PoisonReason
	}{{kerr.InvalidRecord, cdc.PoisonRefused}, {kerr.MessageTooLarge, cdc.PoisonOversize}} {
		t.Run(test.err.Message, func(t *testing.T) {
			c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: test.err, Count: -1, When: holdsBad})
			s := newSink(t, Config{Brokers: c.ListenAddrs(), Compression: "none", Linger: 50 * time.Millisecond})
			a := new(answers)
			const n = 41
			if err := produceSequence(t.Context(), s, a, 0, n); err != nil {
				t.Fatal(err)
			}
			produce(t, s, a, record(testTopic, "key", "bad"))
			for i := range 60 {
				produce(t, s, a, record(testTopic, "key", fmt.Sprint("behind ", i)))
			}
			flush(t, s)
			checkSequence(t, values(t, c.ListenAddrs(), testTopic), n)
			checkCulprit(t, a, test.want)
		})
	}
}

// holdsBad reports whether a record of a produce request has the value bad.
func holdsBad(req kmsg.Request) bool {
	for _, topic := range req.(*kmsg.ProduceRequest).Topics {
		for _, p := range topic.Partitions {
			if bytes.Contains(p.Records, []byte("bad")) {
				return true
			}
		}
	}
	return false
}

// checkCulprit checks that the value bad was the first to fail, for want, and
// that no other is poison.
func checkCulprit(t *testing.T, a *answers, want cdc.PoisonReason) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for value, err := range a.of {
		var poison *cdc.PoisonError
		switch is := errors.As(err, &poison); {
		case value != "bad" && is:
			t.Errorf("done(%v) for %q, which is healthy", err, value)
		case value == "bad" && (!is || poison.Reason != want):
			t.Errorf("done(%v) for the bad one, want poison for reason %s", err, want)
		}
	}
	for _, err := range a.errs {
		if err != nil && !errors.Is(err, a.of["bad"]) {
			t.Errorf("the first failure is %v, want that of the bad one", err)
		}
		if err != nil {
			break
		}
	}
}

// TestCloseWhileNarrowing closes the sink while records are sent again.
func TestCloseWhileNarrowing(t *testing.T) {
	for i := range 10 {
		c := newUnreadable(t, testPartitions, 500)
		s := newSink(t, Config{Brokers: c.ListenAddrs(), Compression: "none", Linger: 5 * time.Millisecond})
		a := new(answers)
		const n = 300
		if err := produceSequence(t.Context(), s, a, 0, n); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a refusal", func() bool { return s.narrowing.Load() || len(a.list()) > 0 })
		time.Sleep(time.Duration(i) * 5 * time.Millisecond)
		s.Close()
		acked := 0
		for _, err := range a.list() {
			if err == nil {
				acked++
			} else if !errors.Is(err, ErrClosed) {
				t.Errorf("done(%v), want nil or closed", err)
			}
		}
		if got := len(a.list()); got != n {
			t.Errorf("done was called %d times, want %d", got, n)
		}
		if held := durable(c); held < int64(acked) {
			t.Errorf("%d records are durable, %d acknowledged", held, acked)
		}
	}
}

// TestCreatedAgainWithLargerLimit hands over what the topic took neither before,
// nor as the client remembers it.
func TestCreatedAgainWithLargerLimit(t *testing.T) {
	c := newCluster(t)
	create := func(limit int) {
		if err := c.CreateTopic(testTopic, 1, map[string]string{"max.message.bytes": fmt.Sprint(limit)}); err != nil {
			t.Fatal(err)
		}
	}
	create(2000)
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Compression: "none"})
	a := new(answers)
	produce(t, s, a, record(testTopic, "key", "old"))
	flush(t, s)
	if err := c.DeleteTopic(testTopic); err != nil {
		t.Fatal(err)
	}
	create(20_000)
	produce(t, s, a, record(testTopic, "key", "new"))
	flush(t, s) // the client has met the new topic by now
	large := strings.Repeat("x", 10_000)
	produce(t, s, a, record(testTopic, "key", large))
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Errorf("done(%v), want nil", err)
	}
	checkValues(t, c, []string{"new", large})
}

// TestSmallerBatchesOnKafka sets a limit that is larger than the topic's.
func TestSmallerBatchesOnKafka(t *testing.T) {
	addrs := envtest.Kafka(t).Addrs()
	limit := "2000"
	topic := envtest.CreateTopic(t, addrs, 1, map[string]*string{"max.message.bytes": &limit})
	s := newSink(t, Config{Brokers: addrs, Compression: "none", Linger: 50 * time.Millisecond, MaxMessageBytes: 1 << 20})
	a := new(answers)
	const n = 300
	for i := range n {
		produce(t, s, a, record(topic, "key", fmt.Sprint(i)))
	}
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Errorf("done(%v), want nil", err)
	}
	produce(t, s, a, record(topic, "key", "bad"+strings.Repeat("x", 5000)))
	flush(t, s)
	var poison *cdc.PoisonError
	if err := firstError(a); !errors.As(err, &poison) || poison.Reason != cdc.PoisonOversize {
		t.Errorf("done(%v), want poison for reason %s", err, cdc.PoisonOversize)
	}
	checkSequence(t, values(t, addrs, topic), n)
}
