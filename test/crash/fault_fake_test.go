package crash

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fakeFaults hit a broker in this process, which answers as it is told.
var fakeFaults = []fault{
	{"broker: acknowledgement lost", 8, answered(kerr.RequestTimedOut)},
	{"broker: NOT_ENOUGH_REPLICAS", 6, answered(kerr.NotEnoughReplicas)},
	{"broker: NOT_ENOUGH_REPLICAS_AFTER_APPEND", 6, answered(kerr.NotEnoughReplicasAfterAppend)},
	{"broker: authorization withdrawn", 6, answered(kerr.TopicAuthorizationFailed)},
	{"broker: storage error", 4, answered(kerr.KafkaStorageError)},
	{"broker: not the leader", 4, answered(kerr.NotLeaderForPartition)},
	{"broker: topic unknown for a moment", 4, answered(kerr.UnknownTopicOrPartition)},
	{"broker: leaders move", 8, func(_ context.Context, s *stage, r *rand.Rand) error {
		for range 1 + r.IntN(5) {
			s.fake.ShufflePartitionLeaders()
			<-time.After(between(r, 0, 100*time.Millisecond)) // some records between two moves
		}
		return nil
	}},
}

// answered gives an answer to produce requests, of all partitions or of one, for a
// while. The two that come after the append are answers to what has been written.
func answered(err *kerr.Error) func(context.Context, *stage, *rand.Rand) error {
	return func(_ context.Context, s *stage, r *rand.Rand) error {
		f := kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: one(r, -1, 1, 5)}
		if r.IntN(2) == 0 {
			f.Topic = one(r, s.ledger.topics...)
			f.Partitions = []int32{r.Int32N(topicPartitions)}
		}
		h := s.fake.Fault(f)
		defer h.Remove()
		<-time.After(between(r, 50*time.Millisecond, 800*time.Millisecond)) // answered so meanwhile
		return nil
	}
}
