package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// cutter is a dialer that can end all its connections.
type cutter struct {
	mu    sync.Mutex
	conns []net.Conn // guarded by mu
}

func (c *cutter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns = append(c.conns, conn)
	}
	return conn, err
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
}

// Once a connection has ended nothing is written behind a commit that was answered and
// that brokers have left open: aborting what is written there would take it away.
func TestLeftOpenBehindConnection(t *testing.T) {
	addrs := forgetful(t)
	topic, progress, c := envtest.CreateTopic(t, addrs, 1, nil), envtest.Name(t), new(cutter)
	x := acquired(t, newTransactional(t, Config{Brokers: addrs, Dialer: c.dial}, progress))
	a := new(answers)
	put(t, x, a, topic, "1")
	saveMarked(t, x, addrs, topic)
	writeForgotten(t, x, addrs, topic, "k", "2")
	if err := x.Save(within(t, testTimeout), pos(20)); err != nil { // which 2 belongs to
		t.Fatal(err)
	}
	if stable(t, addrs, topic) {
		t.Fatal("nothing is left open: the test shows nothing")
	}
	c.cut()
	err := x.Produce(within(t, testTimeout), record(topic, "k", "3"), a.done)
	if err == nil {
		err = x.Flush(within(t, testTimeout))
	}
	if err == nil {
		t.Error("written behind what is left open")
	}
	if cp, err := x.Acquire(within(t, testTimeout)); err != nil || cp.Position != pos(20) {
		t.Fatalf("Acquire() = %+v, %v, want what was saved", cp, err)
	}
	put(t, x, a, topic, "3")
	if err := x.Save(t.Context(), pos(30)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(committedValues(t, addrs, topic)); got != "[1 2 3]" {
		t.Errorf("committed: %s, want each once", got)
	}
}

// A connection that ends is no reason to begin again if brokers have left nothing open.
func TestConnectionEnds(t *testing.T) {
	addrs := envtest.Kafka(t).Addrs()
	topic, c := envtest.CreateTopic(t, addrs, 1, nil), new(cutter)
	x := acquired(t, newTransactional(t, Config{Brokers: addrs, Dialer: c.dial}, envtest.Name(t)))
	a := new(answers)
	var want []string
	for i := range 10 {
		if i%3 == 2 {
			c.cut() // between transactions
		}
		for j := range 3 {
			want = append(want, fmt.Sprintf("%d-%d", i, j))
			put(t, x, a, topic, want[len(want)-1])
			if i%3 == 1 && j == 1 {
				if err := x.Flush(within(t, testTimeout)); err != nil {
					t.Fatal(err)
				}
				c.cut() // inside one
			}
		}
		if err := x.Save(within(t, testTimeout), pos(cdc.LSN(10*(i+1)))); err != nil {
			t.Fatalf("Save() = %v, want that it goes on", err)
		}
	}
	if got := committedValues(t, addrs, topic); !slices.Equal(got, want) {
		t.Errorf("committed: %v, want %v", got, want)
	}
}

// dyingRounds is how often TestBrokerDiesInCommits kills the broker. More rounds find more.
func dyingRounds(t *testing.T) int {
	t.Helper()
	text, ok := os.LookupEnv("WALPOST_TEST_ROUNDS")
	if !ok {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("WALPOST_TEST_ROUNDS: %v", err)
	}
	return n
}

// The only broker is killed in commits, which Kafka 4.3 then leaves open in about one of
// ten, and every other time a new process goes on: what is committed is what the position
// says, each event once.
func TestBrokerDiesInCommits(t *testing.T) {
	broker := envtest.NewKafka(t, testenv.KafkaConfig{})
	addrs := broker.Addrs()
	w := dyingWriter{topic: envtest.CreateTopic(t, addrs, 1, nil)}
	cfg, progress := Config{Brokers: addrs, TransactionTimeout: 3 * time.Second}, envtest.Name(t)
	w.x = acquired(t, newTransactional(t, cfg, progress))
	answered, rounds := 0, dyingRounds(t)
	for round := range rounds {
		for range rand.IntN(3) {
			if err := w.save(t, testTimeout); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		back := make(chan error, 1)
		go func() {
			time.Sleep(time.Duration(rand.IntN(6000)) * time.Microsecond)
			err := broker.Kill(context.Background())
			back <- errors.Join(err, broker.Start(context.Background()))
		}()
		patience := []time.Duration{3 * time.Second, testTimeout}[rand.IntN(2)]
		for w.save(t, patience) == nil && len(back) == 0 {
		}
		if err := <-back; err != nil {
			t.Fatal(err)
		}
		if err := w.save(t, patience); err == nil {
			answered++ // it went on by itself
		}
		if round%2 == 1 {
			_ = w.x.Close()
			w.x = newTransactional(t, cfg, progress)
		}
		w.check(t, addrs)
	}
	t.Logf("%d rounds, %d events, each committed once; %d times it went on without a new epoch", rounds, w.at, answered)
}

// dyingWriter writes the numbers from 1 on.
type dyingWriter struct {
	x     *Transactional
	topic string
	at    cdc.LSN // the last that is known to be committed
}

// save writes some more and saves the last of them, if it can.
func (w *dyingWriter) save(t *testing.T, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	last := w.at + 1 + cdc.LSN(rand.IntN(50))
	a := new(answers)
	for n := w.at + 1; n <= last; n++ {
		if err := w.x.Produce(ctx, record(w.topic, "k", strconv.Itoa(int(n))), a.done); err != nil {
			return err
		}
	}
	err := w.x.Save(ctx, pos(last))
	if err == nil {
		w.at = last
	}
	return err
}

// check begins an epoch, and compares what is committed with the position.
func (w *dyingWriter) check(t *testing.T, addrs []string) {
	t.Helper()
	for tries := 0; ; tries++ {
		cp, err := w.x.Acquire(within(t, testTimeout)) // which a pipeline tries again, too
		if err == nil && cp.LSN < w.at {
			t.Fatalf("the position is %d, and %d was answered as saved", cp.LSN, w.at)
		}
		if err == nil {
			w.at = cp.LSN
			break
		}
		if tries == 5 {
			t.Fatalf("after %d tries: %v", tries, err)
		}
	}
	got := committedValues(t, addrs, w.topic)
	for i := range max(len(got), int(w.at)) {
		if i >= len(got) || i >= int(w.at) || got[i] != strconv.Itoa(i+1) {
			t.Fatalf("position %d, and committed are %d; event %d is not in its place: %v", w.at, len(got), i+1, got[max(0, i-5):min(len(got), i+5)])
		}
	}
}
