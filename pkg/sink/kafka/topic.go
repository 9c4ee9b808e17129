package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

const (
	// defaultMessageBytes is Kafka's default of max.message.bytes.
	// https://kafka.apache.org/documentation/#topicconfigs_max.message.bytes
	defaultMessageBytes = 1048588

	// askTimeout bounds one round of questions about a topic.
	askTimeout = 5 * time.Second

	// maxTopicName is the longest legal name of a topic.
	maxTopicName = 249
)

// topic is what is known about a topic.
type topic struct {
	name      string
	processed prometheus.Counter
	stale     atomic.Bool // the topic was created again, and may be another now

	// limit is how large a batch may be, in bytes. It changes while feeding
	// only, and then the client is replaced, which keeps what it knew.
	limit atomic.Int32

	client *kgo.Client // the last that wrote to it in a transaction; owned by who is feeding

	partitions int32 // owned by the producing goroutine
	largest    int32 // bytes that a record may take; owned by the producing goroutine
}

// batch returns how large a batch may be. Safe to call from any goroutine.
func (t *topic) batch() int { return int(t.limit.Load()) }

func (t *topic) set(f facts) {
	t.partitions, t.largest = f.partitions, f.largest
	t.limit.Store(f.batch)
}

// topics are those that records went to. Only the producing goroutine writes,
// with mu held, and so it alone reads without.
type topics struct {
	mu    sync.Mutex
	known map[string]*topic // guarded by mu
}

// limit returns how large a batch for the topic may be: Kafka's default if it is not known,
// as the progress topic is not, whose records are smaller by far. Safe to call from any
// goroutine.
func (ts *topics) limit(name string) int32 {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.known[name]; t != nil {
		return t.limit.Load()
	}
	return defaultMessageBytes
}

func (ts *topics) add(t *topic) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.known[t.name] = t
}

// names returns what is known, sorted.
func (ts *topics) names() []string {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return slices.Sorted(maps.Keys(ts.known))
}

// forget has a topic met again.
func (ts *topics) forget(name string) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.known, name)
}

// facts are what the cluster says about a topic.
type facts struct {
	partitions int32
	batch      int32 // bytes that a batch of several records may take
	largest    int32 // bytes that a record may take; more than batch if the topic's limit is not known
	leftOpen   bool  // an earlier transaction of this producer is open in a topic that was not known
}

// admit returns r's topic if r can be written there, and the size of a batch
// that holds r.
func (s *Sink) admit(ctx context.Context, r *cdc.Record) (t *topic, size int, err error) {
	switch t = s.topics.known[r.Topic]; {
	case t == nil:
		t, err = s.meet(ctx, r.Topic)
	case t.stale.Load():
		err = s.meetAgain(ctx, t)
	}
	if err != nil {
		return nil, 0, err
	}
	if !writable(r.Timestamp) {
		return nil, 0, cdc.Poison(cdc.PoisonRow, "timestamp %s cannot be written: want a time from 1970 to 2262", r.Timestamp.Format(time.RFC3339))
	}
	if r.Partition < -1 {
		return nil, 0, cdc.Poison(cdc.PoisonRow, "partition %d is not a partition", r.Partition)
	}
	size = batchSize(r)
	if size > t.batch() || r.Partition >= t.partitions {
		err = s.reconsider(ctx, t, r, size)
	}
	return t, size, err
}

// meet learns about a topic for its first record.
func (s *Sink) meet(ctx context.Context, name string) (*topic, error) {
	if !isTopicName(name) {
		return nil, cdc.Poison(cdc.PoisonTopic, "topic name %q is illegal: want 1 to %d of a-z, A-Z, 0-9, '.', '_' and '-', but not \".\" or \"..\"", name, maxTopicName)
	}
	f, err := s.learn(ctx, name)
	if err != nil {
		return nil, err
	}
	t := &topic{name: name, processed: s.metrics.processed.WithLabelValues(name)}
	t.set(f)
	s.topics.add(t)
	if s.cfg.TopicMet != nil {
		s.cfg.TopicMet(len(s.topics.known))
	}
	if f.leftOpen {
		s.tell() // first, as in Close
		s.giveUp(errLeftOpen)
		return nil, errLeftOpen
	}
	return t, nil
}

// meetAgain learns about a topic that was created again.
func (s *Sink) meetAgain(ctx context.Context, t *topic) error {
	t.stale.Store(false)
	f, err := s.learn(ctx, t.name)
	if err == nil {
		err = s.adjust(ctx, t, f)
	}
	if err != nil && !errors.Is(err, errNewClient) { // with which the topic is known
		t.stale.Store(true)
	}
	return err
}

// isTopicName reports whether Kafka takes name for a topic's.
// https://github.com/apache/kafka/blob/trunk/clients/src/main/java/org/apache/kafka/common/internals/Topic.java
func isTopicName(name string) bool {
	if name == "" || len(name) > maxTopicName || name == "." || name == ".." {
		return false
	}
	for i := range len(name) {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// reconsider looks at the topic again before it refuses r: the topic may have
// grown, or its limit may not be known, which is then for the broker to judge.
func (s *Sink) reconsider(ctx context.Context, t *topic, r *cdc.Record, size int) error {
	f, err := s.learn(ctx, t.name)
	switch {
	case err != nil:
		return err
	case size > int(f.largest):
		return cdc.Poison(cdc.PoisonOversize, "record takes %d bytes, and topic %s takes at most %d", size, t.name, f.largest)
	case r.Partition >= f.partitions:
		return cdc.Poison(cdc.PoisonRow, "partition %d does not exist: topic %s has %d", r.Partition, t.name, f.partitions)
	}
	if f.largest == t.largest {
		f.batch = t.limit.Load() // nothing new is known: what the broker refused and took counts
	}
	f.batch = max(f.batch, int32(size))
	return s.adjust(ctx, t, f)
}

// adjust makes f what is known about the topic, in the client too, once nothing
// is in flight.
func (s *Sink) adjust(ctx context.Context, t *topic, f facts) error {
	if s.txn != nil {
		t.set(f)
		s.tell() // first, as in Close
		s.giveUp(errNewClient)
		return errNewClient
	}
	if err := s.Flush(ctx); err != nil {
		return err
	}
	if err := s.feed(ctx); err != nil {
		return err
	}
	defer s.unfeed()
	t.set(f)
	return s.replaceClient()
}

// learn asks about a topic until there is an answer, or ctx is done. No answer
// is final but that the name is illegal. In a transaction that has records it returns
// [cdc.ErrWait] once before it waits.
func (s *Sink) learn(ctx context.Context, name string) (facts, error) {
	for tries := 1; ; tries++ {
		f, err := s.ask(ctx, name)
		switch {
		case err == nil:
			s.health.release()
			return f, nil
		case errors.As(err, new(*cdc.RefusedError)):
			s.health.release()
			return facts{}, err
		case errors.Is(err, kerr.InvalidTopicException):
			s.health.release()
			return facts{}, cdc.Poison(cdc.PoisonTopic, "topic %s: %w", name, err)
		case ctx.Err() != nil:
			return facts{}, context.Cause(ctx)
		case s.txn != nil && errors.As(err, new(*kerr.Error)) && s.txn.filled.Swap(false):
			return facts{}, cdc.ErrWait // brokers answer: what is there can be committed
		}
		s.health.hold(name, err)
		if err := s.pause(ctx, backoff(tries)); err != nil {
			return facts{}, err
		}
	}
}

func (s *Sink) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-s.quit:
		return s.refuse(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ask is one round of learn.
func (s *Sink) ask(ctx context.Context, name string) (facts, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	admin := kadm.NewClient(s.client.Load())
	partitions, err := s.countPartitions(ctx, name)
	if errors.Is(err, kerr.UnknownTopicOrPartition) && s.cfg.CreateTopics {
		partitions, err = s.create(ctx, name)
	}
	if err != nil {
		return facts{}, err
	}
	f, err := s.askLimit(ctx, admin, name)
	if err != nil {
		return facts{}, err
	}
	f.partitions = partitions
	if s.txn != nil && s.topics.known[name] == nil {
		open, failed, err := s.earlierIn(ctx, partitionCounts{name: partitions})
		if err == nil {
			err = failed[name]
		}
		if err != nil {
			return facts{}, err
		}
		f.leftOpen = len(open) > 0
	}
	return f, nil
}

// create creates the topic, and waits until brokers know it.
func (s *Sink) create(ctx context.Context, name string) (int32, error) {
	created, err := s.cfg.newTopic(name).create(ctx, s.client.Load(), s.log)
	if err != nil {
		return 0, fmt.Errorf("create topic %s: %w", name, err)
	}
	if created {
		s.log.Info("created topic", "topic", name)
	}
	for {
		partitions, err := s.countPartitions(ctx, name)
		if !errors.Is(err, kerr.UnknownTopicOrPartition) {
			return partitions, err
		}
		if err := s.pause(ctx, minBackoff); err != nil {
			return 0, err
		}
	}
}

// askLimit returns how much the topic takes. A user who may write a topic need
// not be allowed to read its settings: batches then stay at Kafka's default,
// and a larger record is left for the broker to judge.
func (s *Sink) askLimit(ctx context.Context, admin *kadm.Client, name string) (facts, error) {
	dead := name == s.cfg.DeadLetterTopic
	if n := int32(s.cfg.MaxMessageBytes); n > 0 && !dead {
		return facts{batch: n, largest: n}, nil
	}
	configs, err := admin.DescribeTopicConfigs(ctx, name)
	if err == nil && len(configs) == 1 {
		err = configs[0].Err
	}
	switch {
	case isForbidden(err):
	case err != nil:
		return facts{}, fmt.Errorf("describe settings of topic %s: %w", name, err)
	case len(configs) != 1:
		return facts{}, fmt.Errorf("describe settings of topic %s: no answer", name)
	default:
		if dead {
			err = s.checkRetention(configs[0])
		}
		if err != nil {
			return facts{}, err
		}
		if limit, ok := batchLimit(configs[0].Configs); ok {
			return facts{batch: limit, largest: limit}, nil
		}
	}
	if s.topics.known[name] == nil {
		s.log.Info("topic settings are not readable, filling batches up to Kafka's default", "topic", name, "max_message_bytes", defaultMessageBytes)
	}
	return facts{batch: defaultMessageBytes, largest: maxBatchBytes}, nil
}

// batchLimit is the smaller of two settings: a batch must also fit in a segment.
func batchLimit(configs []kadm.Config) (limit int32, ok bool) {
	limit = maxBatchBytes
	for _, c := range configs {
		if c.Value == nil || c.Key != "max.message.bytes" && c.Key != "segment.bytes" {
			continue
		}
		if n, err := strconv.ParseInt(*c.Value, 10, 64); err == nil {
			limit = int32(min(int64(limit), n))
			ok = ok || c.Key == "max.message.bytes"
		}
	}
	return limit, ok
}
