package kafka

import "github.com/twmb/franz-go/pkg/kgo"

// partitioner sends a record with a partition there, one with a key where the
// Java client sends it, and one without to a partition of its choice.
type partitioner struct{ keyed kgo.Partitioner }

func newPartitioner() kgo.Partitioner {
	return partitioner{kgo.StickyKeyPartitioner(nil)}
}

func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return topicPartitioner{p.keyed.ForTopic(topic).(stickyPartitioner)}
}

// stickyPartitioner is what the keyless part of the client library's
// partitioner needs: to be told when a batch is full.
type stickyPartitioner interface {
	kgo.TopicPartitioner
	kgo.TopicPartitionerOnNewBatch
}

type topicPartitioner struct{ stickyPartitioner }

func (p topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition >= 0 || p.stickyPartitioner.RequiresConsistency(r)
}

func (p topicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Partition >= 0 {
		return int(r.Partition)
	}
	return p.stickyPartitioner.Partition(r, n)
}
