package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/pkg/cdc"
)

// Topics are asked about together: one by one thousands of them would take longer than a
// new epoch may. What a coordinator knows of a transaction is no help, since it has forgotten the
// partitions that are looked for.
const (
	// topicsAsked bounds the topics in a question for their partitions.
	topicsAsked = 1000

	// partitionsAsked bounds the partitions in a question for their producers, of which each
	// may have thousands.
	partitionsAsked = 2000
)

// partitionCounts are numbers of partitions by topic.
type partitionCounts map[string]int32

// failures are why a topic could not be asked about, by topic.
type failures map[string]error

// countPartitions asks a broker through c, not the client's cache as kadm would.
func countPartitions(ctx context.Context, c *kgo.Client, name string) (int32, error) {
	counts, failed := countAll(ctx, c, []string{name})
	return counts[name], failed[name]
}

// countPartitions asks a broker.
func (s *Sink) countPartitions(ctx context.Context, name string) (int32, error) {
	return countPartitions(ctx, s.client.Load(), name)
}

// countAll is countPartitions for any number of topics. Each name is in one of the results.
func countAll(ctx context.Context, c *kgo.Client, names []string) (partitionCounts, failures) {
	counts, failed := make(partitionCounts), make(failures)
	for asked := range slices.Chunk(names, topicsAsked) {
		req := kmsg.NewPtrMetadataRequest()
		for _, name := range asked {
			t := kmsg.NewMetadataRequestTopic()
			t.Topic = &name
			req.Topics = append(req.Topics, t)
		}
		resp, err := req.RequestWith(ctx, c)
		for _, name := range asked {
			failed[name] = fmt.Errorf("describe topic %s: %w", name, err)
			if err == nil {
				failed[name] = fmt.Errorf("describe topic %s: no partitions", name)
			}
		}
		if err != nil {
			continue
		}
		for _, t := range resp.Topics {
			switch err := kerr.ErrorForCode(t.ErrorCode); {
			case t.Topic == nil:
			case err != nil:
				failed[*t.Topic] = fmt.Errorf("describe topic %s: %w", *t.Topic, err)
			case len(t.Partitions) > 0:
				counts[*t.Topic] = int32(len(t.Partitions))
				delete(failed, *t.Topic)
			}
		}
	}
	return counts, failed
}

// earlierIn returns the partitions of topics that this epoch has not written to in which
// a transaction of this producer is open. It uses counts up.
func (s *Sink) earlierIn(ctx context.Context, counts partitionCounts) ([]partial, failures, error) {
	id, epoch, err := s.client.Load().ProducerID(ctx)
	if err != nil {
		return nil, nil, fenced(err)
	}
	open, failed := s.openIn(ctx, id, counts)
	if slices.ContainsFunc(open, func(p partial) bool { return p.producer.epoch > epoch }) {
		return nil, nil, cdc.ErrFenced
	}
	return open, failed, nil
}

// openIn returns the partitions of topics in which a transaction of a producer is open. Who may
// write a topic need not be allowed to read it, and then it is not known. It uses counts up.
func (s *Sink) openIn(ctx context.Context, id int64, counts partitionCounts) (open []partial, failed failures) {
	failed = make(failures)
	for _, req := range questions(counts) {
		for _, shard := range s.client.Load().RequestSharded(ctx, req) {
			open = append(open, s.openAt(id, shard, counts, failed)...)
		}
	}
	for name, missing := range counts {
		if missing > 0 && failed[name] == nil {
			failed[name] = fmt.Errorf("describe producers of topic %s: no answer for %d partitions", name, missing)
		}
	}
	return open, failed
}

// questions asks for the producers of all partitions of topics.
func questions(counts partitionCounts) (all []*kmsg.DescribeProducersRequest) {
	room := int32(0)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		for first := int32(0); first < counts[name]; {
			if room == 0 {
				all, room = append(all, kmsg.NewPtrDescribeProducersRequest()), partitionsAsked
			}
			t := kmsg.NewDescribeProducersRequestTopic()
			t.Topic = name
			for ; first < counts[name] && room > 0; first, room = first+1, room-1 {
				t.Partitions = append(t.Partitions, first)
			}
			last := all[len(all)-1]
			last.Topics = append(last.Topics, t)
		}
	}
	return all
}

// openAt is what one broker says. It takes what is answered from counts.
func (s *Sink) openAt(id int64, shard kgo.ResponseShard, counts partitionCounts, failed failures) (open []partial) {
	if shard.Err != nil {
		for _, t := range shard.Req.(*kmsg.DescribeProducersRequest).Topics {
			counts[t.Topic] -= int32(len(t.Partitions))
			s.unanswered(t.Topic, shard.Err, failed)
		}
		return nil
	}
	for _, t := range shard.Resp.(*kmsg.DescribeProducersResponse).Topics {
		counts[t.Topic] -= int32(len(t.Partitions))
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				s.unanswered(t.Topic, fmt.Errorf("partition %d: %w", p.Partition, err), failed)
			}
			for _, a := range p.ActiveProducers {
				if a.ProducerID == id && a.CurrentTxnStartOffset >= 0 {
					open = append(open, partial{t.Topic, p.Partition, producer{id, int16(a.ProducerEpoch)}})
				}
			}
		}
	}
	return open
}

// unanswered notes why a topic cannot be asked about, unless it may not be, or by no client.
func (s *Sink) unanswered(topic string, err error, failed failures) {
	if isForbidden(err) || tooOld(err) {
		s.log.Debug("a topic cannot be asked for open transactions", "topic", topic, "error", err)
		return
	}
	failed[topic] = fmt.Errorf("describe producers of topic %s: %w", topic, err)
}

// tooOld reports whether brokers do not know a request, so that nothing can be asked. The
// client library does not export the error.
func tooOld(err error) bool {
	return err != nil && (errors.Is(err, kerr.UnsupportedVersion) || strings.Contains(err.Error(), "broker is too old") || strings.Contains(err.Error(), "request key is unknown"))
}
