package kafka

import (
	"fmt"
	"maps"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

// savedOnMany has written to n topics, and saved.
func savedOnMany(t *testing.T, n int) (c *kfake.Cluster, x *Transactional, topics []string) {
	t.Helper()
	for i := range n {
		topics = append(topics, fmt.Sprintf("many-%d", i))
	}
	c = newCluster(t, kfake.SeedTopics(2, topics...))
	x = acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs()}, ""))
	a := new(answers)
	for _, topic := range topics {
		put(t, x, a, topic, "1")
	}
	if err := x.Save(within(t, testTimeout), pos(10)); err != nil {
		t.Fatal(err)
	}
	return c, x, topics
}

// countRequests counts requests of a kind from now on.
func countRequests(c *kfake.Cluster, key kmsg.Key) *atomic.Int64 {
	var n atomic.Int64
	c.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		n.Add(1)
		return nil, nil, false
	})
	return &n
}

// A new epoch asks for what was left open in all topics at once: with thousands of them it would
// never come else.
func TestLeftOpenAsksTogether(t *testing.T) {
	c, x, _ := savedOnMany(t, 300)
	producers, metadata := countRequests(c, kmsg.DescribeProducers), countRequests(c, kmsg.Metadata)
	if cp, err := x.Acquire(within(t, testTimeout)); err != nil || cp.Position != pos(10) {
		t.Fatalf("Acquire() = %+v, %v, want what was saved", cp, err)
	}
	if n, m := producers.Load(), metadata.Load(); n == 0 || n > 10 || m > 50 {
		t.Errorf("%d requests for producers and %d for metadata, want a few", n, m)
	}
}

// So does an epoch one of whose connections has ended.
func TestVerifyAsksTogether(t *testing.T) {
	c, x, topics := savedOnMany(t, 300)
	put(t, x, new(answers), topics[0], "2")
	if err := x.Flush(within(t, testTimeout)); err != nil {
		t.Fatal(err)
	}
	producers := countRequests(c, kmsg.DescribeProducers)
	s := x.current.Load()
	s.txn.verification.connectionEnded()
	if err := s.verify(within(t, testTimeout)); err != nil {
		t.Fatal(err)
	}
	if n := producers.Load(); n == 0 || n > 10 {
		t.Errorf("%d requests, want a few", n)
	}
}

// Each partition is asked about once, and no more of them in a request than is bearable.
func TestQuestions(t *testing.T) {
	counts := partitionCounts{"a": partitionsAsked - 1, "b": partitionsAsked + 2, "c": 1, "d": 0}
	asked := make(partitionCounts)
	all := questions(counts)
	for _, req := range all {
		n := 0
		for _, topic := range req.Topics {
			for _, p := range topic.Partitions {
				if p != asked[topic.Topic] {
					t.Fatalf("partition %d of %s comes after %d others", p, topic.Topic, asked[topic.Topic])
				}
				asked[topic.Topic]++
				n++
			}
		}
		if n == 0 || n > partitionsAsked {
			t.Errorf("%d partitions in a request", n)
		}
	}
	if asked["d"] = 0; len(all) != 3 || !maps.Equal(asked, counts) {
		t.Errorf("asked %v in %d requests, want %v in 3", asked, len(all), counts)
	}
}

// A topic that was deleted is met again, and hides nothing of the others.
func TestLeftOpenBesideDeleted(t *testing.T) {
	x, addrs, topic, _ := savedOnForgetful(t)
	gone := envtest.CreateTopic(t, addrs, 2, nil)
	put(t, x, new(answers), gone, "1")
	saveMarked(t, x, addrs, topic)
	writeForgotten(t, x, addrs, topic, "k", "2")
	if stable(t, addrs, topic) {
		t.Fatal("nothing is left open: the test shows nothing")
	}
	if _, err := envtest.Admin(t, addrs).DeleteTopic(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Acquire(within(t, testTimeout)); err != nil {
		t.Fatal(err)
	}
	if !stable(t, addrs, topic) {
		t.Error("the topic is left open")
	}
	if known := x.current.Load().topics.known; known[gone] != nil || known[topic] == nil {
		t.Errorf("knows the deleted one: %t, the other: %t", known[gone] != nil, known[topic] != nil)
	}
}
