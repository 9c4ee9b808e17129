package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/pkg/cdc"
)

func refusal(count int) kfake.Fault {
	return kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.InvalidRecord, Count: count}
}

// TestOutagesAreHeld makes each error that may pass appear at each place where
// the client meets one, while records are handed over, and take it away again.
func TestOutagesAreHeld(t *testing.T) {
	answers := map[kmsg.Key][]*kerr.Error{
		kmsg.Produce: {
			kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.UnknownServerError, kerr.NotEnoughReplicas,
			kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut, kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition, kerr.KafkaStorageError,
		},
		kmsg.Metadata:       {kerr.TopicAuthorizationFailed, kerr.UnknownTopicOrPartition, kerr.UnknownServerError, kerr.LeaderNotAvailable},
		kmsg.InitProducerID: {kerr.ClusterAuthorizationFailed, kerr.CoordinatorLoadInProgress, kerr.UnknownServerError},
	}
	for key, errs := range answers {
		for _, err := range errs {
			for _, moment := range []string{"the topic is new", "the topic is new to the client", "records flow"} {
				if key == kmsg.InitProducerID && moment == "records flow" {
					continue // it is asked for once
				}
				t.Run(key.Name()+" "+err.Message+" when "+moment, func(t *testing.T) {
					t.Parallel()
					testHeld(t, kfake.Fault{Keys: []kmsg.Key{key}, Err: err, TopLevel: key == kmsg.InitProducerID, Count: -1}, moment)
				})
			}
		}
	}
}

func testHeld(t *testing.T, fault kfake.Fault, moment string) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	s := newSink(t, Config{Brokers: c.ListenAddrs()})
	a := new(answers)
	const n = 50
	first := 0
	switch moment {
	case "records flow":
		first = 10
		if err := produceSequence(t.Context(), s, a, 0, first); err != nil {
			t.Fatal(err)
		}
		flush(t, s)
		if fault.Keys[0] == kmsg.Metadata { // make the client look
			moved := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition, Count: -1})
			defer moved.Remove()
			time.AfterFunc(2*time.Second, moved.Remove)
		}
	case "the topic is new to the client":
		know(s)
	}
	h := c.Fault(fault)
	produced := make(chan error, 1)
	go func() { produced <- produceSequence(t.Context(), s, a, first, n) }()
	eventually(t, "six faults", func() bool { return h.Hits() >= 6 })
	if got := len(a.list()); got > first {
		t.Errorf("done was called %d times, want %d during the outage", got, first)
	}
	h.Remove()
	if err := <-produced; err != nil {
		t.Fatalf("Produce() = %v", err)
	}
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Fatalf("done(%v), want nil", err)
	}
	checkSequence(t, values(t, c.ListenAddrs(), testTopic), n)
}

// produceSequence hands over numbers of one key.
func produceSequence(ctx context.Context, s *Sink, a *answers, from, to int) error {
	for i := from; i < to; i++ {
		if err := s.Produce(ctx, record(testTopic, "key", fmt.Sprint(i)), a.done); err != nil {
			return err
		}
	}
	return nil
}

// TestPermissionWithdrawn takes the permission away while records flow.
func TestPermissionWithdrawn(t *testing.T) {
	for _, key := range []kmsg.Key{kmsg.Produce, kmsg.Metadata} {
		t.Run(key.Name(), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
			log := new(logs)
			s := newSink(t, Config{Brokers: c.ListenAddrs(), Logger: log.logger(slog.LevelWarn)})
			a := new(answers)
			if err := produceSequence(t.Context(), s, a, 0, 10); err != nil {
				t.Fatal(err)
			}
			flush(t, s)
			faults := []kfake.Fault{{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.TopicAuthorizationFailed, Count: -1}}
			if key == kmsg.Metadata {
				faults = []kfake.Fault{
					{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotLeaderForPartition, Count: -1},
					{Keys: []kmsg.Key{kmsg.Metadata}, Err: kerr.TopicAuthorizationFailed, Count: -1},
				}
			}
			h := c.Fault(faults...)
			if err := produceSequence(t.Context(), s, a, 10, 60); err != nil {
				t.Fatal(err)
			}
			var err error
			eventually(t, "Healthy names the topic and the reason", func() bool {
				err = s.Healthy(t.Context())
				return err != nil && contains(err, testTopic) && contains(err, "AUTHORIZATION_FAILED")
			})
			if got := log.count("allow the user to write the topic"); got != 1 {
				t.Errorf("the hint was logged %d times, want once", got)
			}
			h.Remove()
			flush(t, s)
			checkSequence(t, values(t, c.ListenAddrs(), testTopic), 60)
			if err := s.Healthy(t.Context()); err != nil {
				t.Errorf("Healthy() = %v after the outage", err)
			}
		})
	}
}

// TestProducerIDRequestsArePaced shows that the client does not spin when it
// gets no producer id.
func TestProducerIDRequestsArePaced(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	s := newSink(t, Config{Brokers: c.ListenAddrs()})
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.ClusterAuthorizationFailed, TopLevel: true, Count: -1})
	start := time.Now()
	produce(t, s, new(answers), record(testTopic, "key", "0"))
	eventually(t, "five faults", func() bool { return h.Hits() >= 5 })
	if got := time.Since(start); got < 3*initInterval {
		t.Errorf("five requests took %s, want at least %s", got, 3*initInterval)
	}
	h.Remove()
	flush(t, s)
}

// TestRefusalCannotBeOvertaken refuses all batches from some moment on while
// records of one key are handed over as fast as can be: none that follows a
// refused one may become durable.
func TestRefusalCannotBeOvertaken(t *testing.T) {
	for range 5 {
		c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
		s := newSink(t, Config{Brokers: c.ListenAddrs()})
		a := new(answers)
		if err := produceSequence(t.Context(), s, a, 0, 10); err != nil {
			t.Fatal(err)
		}
		flush(t, s)
		h := c.Fault(refusal(-1))
		var produced error
		n := 10
		for ; produced == nil; n++ {
			produced = s.Produce(within(t, testTimeout), record(testTopic, "key", fmt.Sprint(n)), a.done)
		}
		var poison *cdc.PoisonError
		if errors.As(produced, &poison) {
			t.Errorf("Produce() = %v, which is another record's", produced)
		}
		flush(t, s)
		h.Remove()
		first, held := firstError(a), 0
		if !errors.As(first, &poison) || poison.Reason != cdc.PoisonRefused {
			t.Errorf("the first error is %v, want poison for reason %s", first, cdc.PoisonRefused)
		}
		for _, p := range values(t, c.ListenAddrs(), testTopic) {
			held += len(p)
		}
		acked := 0
		for _, err := range a.list() {
			if err == nil {
				acked++
			}
		}
		if held != acked {
			t.Errorf("%d records are durable, %d acknowledged", held, acked)
		}
		checkSequence(t, values(t, c.ListenAddrs(), testTopic), held)
	}
}

// TestRefusalIsSeenBeforeItsPromise refuses a record while the promises of
// earlier ones are still being called.
func TestRefusalIsSeenBeforeItsPromise(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	s := newSink(t, Config{Brokers: c.ListenAddrs()})
	a := new(answers)
	release := make(chan struct{})
	err := s.Produce(t.Context(), record(testTopic, "key", "0"), func(r *cdc.Record, err error) {
		<-release
		a.done(r, err)
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the record is durable", func() bool { return len(c.PartitionInfos(testTopic)) > 0 && durable(c) == 1 })
	h := c.Fault(refusal(1))
	produce(t, s, a, record(testTopic, "key", "refused"))
	eventually(t, "the sink knows of the refusal", s.narrowing.Load)
	h.Remove()
	produce(t, s, a, record(testTopic, "key", "overtakes"))
	close(release)
	flush(t, s)
	checkSequence(t, values(t, c.ListenAddrs(), testTopic), 1)
	if got := len(a.list()); got != 3 {
		t.Errorf("done was called %d times, want 3", got)
	}
}

// durable returns the number of records that the cluster holds of the topic.
func durable(c *kfake.Cluster) (n int64) {
	for _, p := range c.PartitionInfos(testTopic) {
		n += p.HighWatermark
	}
	return n
}

func firstError(a *answers) error {
	for _, err := range a.list() {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestDamagedBatches has batches arrive damaged for a while.
func TestDamagedBatches(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	log := new(logs)
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Logger: log.logger(slog.LevelWarn)})
	a := new(answers)
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.CorruptMessage, Count: -1})
	if err := produceSequence(t.Context(), s, a, 0, 50); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Healthy names the reason", func() bool { return contains(s.Healthy(t.Context()), "CORRUPT_MESSAGE") })
	eventually(t, "the log has a hint", func() bool { return log.count("look for what damages data") == 1 })
	h.Remove()
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Errorf("done(%v), want nil", err)
	}
	checkSequence(t, values(t, c.ListenAddrs(), testTopic), 50)
}

// TestRefusals shows which answers are final.
func TestRefusals(t *testing.T) {
	for _, err := range []*kerr.Error{
		kerr.MessageTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.RecordListTooLarge,
		kerr.UnsupportedForMessageFormat, kerr.UnsupportedCompressionType, kerr.PolicyViolation,
	} {
		t.Run(err.Message, func(t *testing.T) {
			c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
			s := newSink(t, Config{Brokers: c.ListenAddrs()})
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: -1})
			a := new(answers)
			produce(t, s, a, record(testTopic, "key", "0"))
			flush(t, s)
			want := cdc.PoisonRefused
			if err == kerr.MessageTooLarge || err == kerr.RecordListTooLarge {
				want = cdc.PoisonOversize
			}
			var poison *cdc.PoisonError
			if got := firstError(a); !errors.As(got, &poison) || poison.Reason != want || !errors.Is(got, err) {
				t.Errorf("done(%v), want poison for reason %s that wraps %s", got, want, err.Message)
			}
			if err := s.Healthy(t.Context()); err == nil {
				t.Error("Healthy() = nil after a refusal")
			}
		})
	}
}

// TestReturnFromOutage shows that a broker that comes back is used at once,
// also after many failed attempts. Network and time are virtual.
func TestReturnFromOutage(t *testing.T) { synctest.Test(t, testReturnFromOutage) }

func testReturnFromOutage(t *testing.T) {
	var network kfake.VirtualNetwork
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic), kfake.ListenFn(network.Listen))
	g := newGateTo(network.DialContext)
	var dials atomic.Int64
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Dialer: countDials(g, &dials)})
	a := new(answers)
	produce(t, s, a, record(testTopic, "key", "0"))
	flush(t, s)
	g.outage(true)
	if err := produceSequence(t.Context(), s, a, 1, 20); err != nil {
		t.Fatal(err)
	}
	before := dials.Load()
	eventually(t, "many failed dials", func() bool { return dials.Load() > before+12 })
	eventually(t, "not healthy", func() bool { return s.Healthy(t.Context()) != nil })
	g.outage(false)
	start := time.Now()
	flush(t, s)
	if got := time.Since(start); got > 2*maxBackoff {
		t.Errorf("delivered %s after the outage, want about a second", got)
	}
	checkSequence(t, values(t, c.ListenAddrs(), testTopic, kgo.Dialer(network.DialContext)), 20)
	if err := s.Healthy(t.Context()); err != nil {
		t.Errorf("Healthy() = %v after the outage", err)
	}
}

func TestBackoff(t *testing.T) {
	for tries := range 100 {
		if got := backoff(tries); got < minBackoff/2 || got > maxBackoff || maxBackoff > time.Second {
			t.Errorf("backoff(%d) = %s, want at most a second", tries, got)
		}
	}
}

// TestIdleOutage shows that a broker that died while nothing was sent is
// noticed.
func TestIdleOutage(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	g := newGate()
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Dialer: g.dial})
	if err := s.Healthy(t.Context()); err != nil {
		t.Fatalf("Healthy() = %v", err)
	}
	g.outage(true)
	eventually(t, "not healthy", func() bool { return s.Healthy(t.Context()) != nil })
	g.outage(false)
	eventually(t, "healthy again", func() bool { return s.Healthy(t.Context()) == nil })
}

func contains(err error, text string) bool {
	return err != nil && strings.Contains(err.Error(), text)
}

func countDials(g *gate, n *atomic.Int64) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		n.Add(1)
		return g.dial(ctx, network, address)
	}
}
