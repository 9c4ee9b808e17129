package kafka

import (
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestFlight(t *testing.T) {
	var f flight
	start := time.Now()
	ds := make([]*delivery, 4)
	for i := range ds {
		ds[i] = &delivery{topic: &topic{name: string(rune('a' + i))}}
		ds[i].partition.Store(int32(i))
		f.enter(ds[i], start.Add(time.Duration(i)))
	}
	var got []string
	for _, i := range []int{1, 0, 3} { // from the middle, the front and the back
		f.leave(ds[i])
		got = append(got, f.oldest().String())
	}
	f.enter(ds[1], start)
	f.leave(ds[2])
	got = append(got, f.oldest().String())
	f.leave(ds[1])
	if want := []string{"topic a partition 0", "topic c partition 2", "topic c partition 2", "topic b partition 1"}; !slices.Equal(got, want) {
		t.Errorf("oldest was %q, want %q", got, want)
	}
	if w := f.oldest(); w != (waiting{}) || f.last != nil || w.longerThan(0) {
		t.Errorf("%v waits in an empty list", w)
	}
}

// TestStalledPartition shows that the one partition that takes nothing is told, while
// the others go on.
func TestStalledPartition(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(testPartitions, testTopic))
	reg := prometheus.NewPedanticRegistry()
	s := newSink(t, Config{Brokers: c.ListenAddrs(), Registerer: reg})
	a := new(answers)
	h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic, Partitions: []int32{1}, Err: kerr.NotEnoughReplicas, Count: -1})
	produce := func(partition int32) {
		r := record(testTopic, "key", "value")
		r.Partition = partition
		if err := s.Produce(t.Context(), r, a.done); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	produce(1)
	eventually(t, "a stalled partition", func() bool {
		produce(0)
		n, err := testutil.GatherAndCount(reg, "walpost_stalled_seconds")
		return err == nil && n == 1
	})
	if waited := time.Since(begun); waited < stallAfter {
		t.Errorf("told after %s, want at least %s", waited, stallAfter)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "walpost_stalled_seconds" && !strings.Contains(f.String(), `value:"1"`) {
			t.Errorf("told of %s, want partition 1", f)
		}
	}
	if err := s.Healthy(t.Context()); err != nil {
		t.Errorf("Healthy() = %v while other partitions go on", err)
	}
	h.Remove()
	flush(t, s)
	if n, err := testutil.GatherAndCount(reg, "walpost_stalled_seconds"); err != nil || n != 0 {
		t.Errorf("%d partitions are stalled after the fault, %v", n, err)
	}
}

// TestPartitionerIsSmall: with ten thousand topics each has one.
func TestPartitionerIsSmall(t *testing.T) {
	const topics, most = 10_000, 128 // bytes each
	p := newPartitioner()
	kept := make([]kgo.TopicPartitioner, topics)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range kept {
		kept[i] = p.ForTopic(testTopic)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / topics; each > most {
		t.Errorf("a topic's partitioner takes %d bytes, want at most %d", each, most)
	}
}

// TestPartitionerWithoutKey: such records stick to a partition until a batch is full.
func TestPartitionerWithoutKey(t *testing.T) {
	p := newPartitioner().ForTopic(testTopic)
	r := &kgo.Record{Partition: -1}
	for range 100 {
		first := p.Partition(r, 3)
		if again := p.Partition(r, 3); again != first || first < 0 || first > 2 {
			t.Fatalf("chose %d, then %d", first, again)
		}
		p.(kgo.TopicPartitionerOnNewBatch).OnNewBatch()
		if next := p.Partition(r, 3); next == first {
			t.Fatalf("chose %d again for the next batch", next)
		}
	}
	if p.RequiresConsistency(r) || !p.RequiresConsistency(&kgo.Record{Partition: -1, Key: []byte{}}) || !p.RequiresConsistency(&kgo.Record{Partition: 2}) {
		t.Error("only records without key and partition may move")
	}
}
