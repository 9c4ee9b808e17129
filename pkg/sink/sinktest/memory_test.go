package sinktest_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/sink/sinktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Harness {
		const topic, partitions = "orders", 3
		var refuse atomic.Bool
		m := sinktest.NewMemory(sinktest.MemoryConfig{
			Partitions: partitions, MaxInFlight: 100, MaxBytes: 1 << 20,
			Outcome: func(*cdc.Record) sinktest.Outcome {
				if refuse.Load() {
					return sinktest.Outcome{Lost: true, Err: cdc.Poison(cdc.PoisonRefused, "refused")}
				}
				return sinktest.Outcome{}
			},
		})
		t.Cleanup(m.Close)
		return sinktest.Harness{
			Sink: m, Topic: topic, Partitions: partitions, Oversize: 1 << 20, Full: 200,
			Read:   func(*testing.T) [][]cdc.Record { return m.Records(topic) },
			Outage: m.Outage, Refuse: func() { refuse.Store(true) },
		}
	})
}

func TestMemoryOutcomes(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name    string
		outcome sinktest.Outcome
		kept    int
		done    []error
	}{
		{"kept and said so", sinktest.Outcome{}, 1, []error{nil}},
		{"kept and reported failed", sinktest.Outcome{Err: broken}, 1, []error{broken}},
		{"kept and never answered", sinktest.Outcome{Silent: true}, 1, nil},
		{"lost and reported durable", sinktest.Outcome{Lost: true}, 0, []error{nil}},
		{"lost and reported failed", sinktest.Outcome{Lost: true, Err: broken}, 0, []error{broken}},
		{"lost and never answered", sinktest.Outcome{Lost: true, Silent: true}, 0, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			answered := make(chan error, 1)
			reached := make(chan struct{})
			m := sinktest.NewMemory(sinktest.MemoryConfig{Outcome: func(*cdc.Record) sinktest.Outcome {
				defer close(reached)
				return test.outcome
			}})
			t.Cleanup(m.Close)
			r := cdc.NewRecord()
			r.Topic, r.Key = "orders", []byte("k")
			if err := m.Produce(t.Context(), r, func(_ *cdc.Record, err error) { answered <- err }); err != nil {
				t.Fatalf("Produce() = %v", err)
			}
			<-reached
			for _, want := range test.done {
				if got := <-answered; !errors.Is(got, want) {
					t.Errorf("done(%v), want %v", got, want)
				}
			}
			if test.outcome.Silent {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := m.Flush(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("Flush() = %v, want canceled", err)
				}
			} else if err := m.Flush(t.Context()); err != nil {
				t.Errorf("Flush() = %v", err)
			}
			n := 0
			for _, p := range m.Records("orders") {
				n += len(p)
			}
			if n != test.kept && !test.outcome.Silent {
				t.Errorf("%d records kept, want %d", n, test.kept)
			}
		})
	}
}

func TestMemoryAssertsTheRules(t *testing.T) {
	m := sinktest.NewMemory(sinktest.MemoryConfig{})
	m.Outage(true)
	r := cdc.NewRecord()
	r.Topic = "orders"
	done := func(*cdc.Record, error) {}
	if err := m.Produce(t.Context(), r, done); err != nil {
		t.Fatalf("Produce() = %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a record that was handed over twice did not panic")
		}
		m.Close()
	}()
	_ = m.Produce(t.Context(), r, done)
}

// TestPartition compares with what the Java client answers.
// https://github.com/apache/kafka/blob/trunk/clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java
func TestPartition(t *testing.T) {
	for key, hash := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		const n = 1000
		if got, want := sinktest.Partition([]byte(key), n), int(uint32(hash)&0x7fffffff)%n; got != want {
			t.Errorf("Partition(%q) = %d, want %d", key, got, want)
		}
	}
}
