package kafka

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/pkg/circuit"
)

// The circuit of an idle sink that nobody asks opens with an outage and closes after
// it, and each is logged once.
func TestWatch(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	g, log := newGate(), new(logs)
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Dialer: g.dial, Logger: log.logger(slog.LevelInfo)})
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- s.Watch(ctx) }()
	if got := s.Circuit(); got != circuit.Closed {
		t.Errorf("circuit = %s at first", got)
	}
	g.outage(true)
	eventually(t, "circuit open", func() bool { return s.Circuit() == circuit.Open })
	g.outage(false)
	eventually(t, "circuit closed", func() bool { return s.Circuit() == circuit.Closed })
	cancel()
	if err := <-watched; err != nil {
		t.Errorf("Watch() = %v", err)
	}
	for _, line := range []string{"Kafka takes no records", "Kafka takes records again"} {
		if n := log.count(line); n != 1 {
			t.Errorf("logged %q %d times, want once", line, n)
		}
	}
}

// While a broker answers and takes nothing the circuit is open, half-open while it is
// tried, and nothing but an acknowledgement closes it.
func TestCircuitOfRefusals(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	s := newSink(t, Config{Brokers: c.ListenAddrs()})
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	produce(t, s, new(answers), record(testTopic, "key", "0"))
	eventually(t, "not healthy", func() bool { return s.Healthy(t.Context()) != nil })
	for state := range map[circuit.State]bool{circuit.Open: true, circuit.HalfOpen: true} {
		eventually(t, "circuit "+state.String(), func() bool {
			if s.Circuit() == circuit.Closed {
				t.Fatal("closed though nothing is acknowledged")
			}
			return s.Circuit() == state
		})
	}
	h.Remove()
	flush(t, s)
	if err := s.Healthy(t.Context()); err != nil || s.Circuit() != circuit.Closed {
		t.Errorf("Healthy() = %v, circuit %s after the fault", err, s.Circuit())
	}
}

// A try that fails opens the circuit again at once.
func TestCircuitOfTries(t *testing.T) {
	s := newSink(t, Config{Brokers: []string{"127.0.0.1:1"}})
	h := s.health
	h.OnBrokerWrite(kgo.BrokerMetadata{}, 0, 0, 0, 0, nil)
	if got := s.Circuit(); got != circuit.Closed {
		t.Errorf("a request made it %s", got)
	}
	h.judged(errors.New("away"))
	for range 2 {
		h.OnBrokerWrite(kgo.BrokerMetadata{}, 0, 0, 0, 0, nil)
		if got := s.Circuit(); got != circuit.HalfOpen {
			t.Errorf("circuit = %s while it is tried", got)
		}
		h.suspect(errors.New("refused"))
		if got := s.Circuit(); got != circuit.Open {
			t.Errorf("circuit = %s after a try that failed", got)
		}
	}
}

// A transactional sink that is asked for its checkpoint again and again through an outage
// says what is wrong once in a while only, as one that is not transactional.
func TestTransactionalOutageIsLoggedSparsely(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	g, log := newGate(), new(logs)
	x := newTransactional(t, Config{Brokers: c.ListenAddrs(), Dialer: g.dial, Logger: log.logger(slog.LevelInfo)}, "")
	g.outage(true)
	const tries = 20
	for range tries {
		if _, err := x.Load(within(t, testTimeout)); err == nil {
			t.Fatal("Load() = nil without a broker")
		}
	}
	if n := log.count("connect to broker"); n == 0 || n >= tries/2 {
		t.Errorf("logged a failed connection %d times in %d tries", n, tries)
	}
}

// What is learnt of one topic does not make the log forget what it has said of others.
func TestLearntTopicKeepsLogSparse(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	log := new(logs)
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Logger: log.logger(slog.LevelInfo)})
	for range 10 {
		s.health.warn("connect", "connect to broker")
		if _, err := s.learn(t.Context(), testTopic); err != nil {
			t.Fatal(err)
		}
	}
	if n := log.count("connect to broker"); n >= 5 {
		t.Errorf("logged the same %d times", n)
	}
}
