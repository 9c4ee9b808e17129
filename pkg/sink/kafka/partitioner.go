package kafka

import (
	"math/rand/v2"

	"github.com/twmb/franz-go/pkg/kgo"
)

// partitioner sends a record with a partition there, one with a key where the
// Java client sends it, and one without to a partition of its choice, to which it
// sticks until a batch is full. The client library's own would hold 5 KB a topic
// for the random numbers of that choice.
type partitioner struct{ keyed kgo.TopicPartitioner }

// newPartitioner returns one that shares the library's hash of keys over all topics:
// it keeps nothing.
func newPartitioner() kgo.Partitioner {
	return partitioner{kgo.StickyKeyPartitioner(nil).ForTopic("")}
}

func (p partitioner) ForTopic(string) kgo.TopicPartitioner {
	return &topicPartitioner{keyed: p.keyed, chosen: -1, last: -1}
}

// topicPartitioner implements [kgo.TopicPartitioner] and
// [kgo.TopicPartitionerOnNewBatch].
type topicPartitioner struct {
	keyed        kgo.TopicPartitioner
	chosen, last int // for records without a key, or -1; last is where the batch before went
	count        int // of partitions, when the last record with a key came
}

func (*topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition >= 0 || r.Key != nil
}

// Partition implements [kgo.TopicPartitioner]. It tells the delivery.
func (p *topicPartitioner) Partition(r *kgo.Record, n int) int {
	chosen := p.choose(r, n)
	d, ok := r.Context.(*delivery)
	if !ok {
		return chosen
	}
	d.partition.Store(int32(chosen))
	if n != p.count && r.Partition < 0 && r.Key != nil { // where n is all partitions
		p.count = n
		d.sink.metrics.growth.saw(d.sink.log, d.topic.name, n)
	}
	return chosen
}

func (p *topicPartitioner) choose(r *kgo.Record, n int) int {
	switch {
	case r.Partition >= 0:
		return int(r.Partition)
	case r.Key != nil:
		return p.keyed.Partition(r, n)
	}
	if p.chosen < 0 || p.chosen >= n {
		p.chosen = rand.IntN(n)
		if p.chosen == p.last {
			p.chosen = (p.chosen + 1) % n
		}
	}
	return p.chosen
}

func (p *topicPartitioner) OnNewBatch() { p.last, p.chosen = p.chosen, -1 }
