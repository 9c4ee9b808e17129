package kafka

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

// The progress topic keeps, under the key <system identifier>-<slot>, a JSON
// object: the checkpoint, the topics, and the slot and the owner for people. All is in
// partition 0, so that a topic that is given more partitions loses nothing.
const progressPartition = 0

// content is the value of a record of the progress topic.
type content struct {
	Slot  string `json:"slot"`
	Owner string `json:"owner"`
	cdc.Checkpoint

	// Topics are those that its transaction may have written to, so that the next process
	// looks there for what brokers have left open. Empty if there were too many.
	Topics []string `json:"topics,omitempty"`

	key string
}

// maxTopicsKept bounds the topics in a record.
const maxTopicsKept = 64

func (c content) record(topic string) (*kgo.Record, error) {
	value, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("make progress record: %w", err)
	}
	return &kgo.Record{Topic: topic, Partition: progressPartition, Key: []byte(c.key), Value: value, Timestamp: cdc.NoTimestamp}, nil
}

// segmentBytes keeps the segments of a progress topic small: the one that is
// written is not compacted, and each transaction adds a record.
const segmentBytes = "16777216"

// createMissing creates the progress topic, unless it is there.
func (t *Transactional) createMissing(ctx context.Context) error {
	admin := kadm.NewClient(t.base.client.Load())
	_, err := t.base.countPartitions(ctx, t.cfg.Topic)
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		if err == nil {
			err = t.checkPolicy(ctx, admin)
		}
		return err
	}
	compact, segment := "compact", segmentBytes
	resp, err := admin.CreateTopic(ctx, 1, int16(t.cfg.replication()),
		map[string]*string{"cleanup.policy": &compact, "segment.bytes": &segment}, t.cfg.Topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s, with one partition and cleanup.policy=compact: %w: %s", t.cfg.Topic, err, resp.ErrMessage)
	}
	for {
		_, err := t.base.countPartitions(ctx, t.cfg.Topic)
		if !errors.Is(err, kerr.UnknownTopicOrPartition) {
			return err
		}
		if err := t.base.pause(ctx, minBackoff); err != nil {
			return err
		}
	}
}

// replication returns the replication factor of created topics.
func (c Config) replication() int { return c.withDefaults().ReplicationFactor }

// checkPolicy refuses a topic that forgets. A user who may write it need not be
// allowed to read its settings.
func (t *Transactional) checkPolicy(ctx context.Context, admin *kadm.Client) error {
	configs, err := admin.DescribeTopicConfigs(ctx, t.cfg.Topic)
	if isForbidden(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("describe settings of topic %s: %w", t.cfg.Topic, err)
	}
	for _, c := range configs {
		for _, kv := range c.Configs {
			if c.Err == nil && kv.Key == "cleanup.policy" && strings.Contains(kv.MaybeValue(), "delete") {
				return cdc.Refuse("set cleanup.policy=compact on the topic, or choose another checkpoint.topic",
					"topic %s forgets old records, which would lose the checkpoint: its cleanup.policy is %s", t.cfg.Topic, kv.MaybeValue())
			}
		}
	}
	return nil
}

const (
	// firstWindow is how many offsets before the end are read first, and
	// windowGrowth how much more if the key is not among them.
	firstWindow  = 1000
	windowGrowth = 30

	// pollTimeout is how long no record may come while some are missing.
	pollTimeout = 10 * time.Second

	// decideTimeout is how long a Load waits for a transaction to be decided: a
	// commit is acknowledged before its markers are written.
	decideTimeout = time.Second
)

// extent says where the progress topic begins and ends.
type extent struct {
	start  int64
	stable int64 // all before it is decided
	end    int64
}

// found is what the progress topic says of a key.
type found struct {
	content

	fates   fates       // of the transactions that were read
	pending *kgo.Record // the last of a transaction that is not decided, or nil
}

// read returns what was last committed for key, or zero if nothing was. It goes
// back from the end.
func (t *Transactional) read(ctx context.Context, key string) (f found, err error) {
	x, err := t.extent(ctx)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	for window := int64(firstWindow); ; window *= windowGrowth {
		from := max(x.start, x.end-window)
		s, err := t.scan(ctx, key, from, x)
		if err != nil {
			return f, err
		}
		last := s.result()
		f.fates, f.pending = s.fates, s.pending()
		switch {
		case last != nil:
			f.content, err = parseContent(t.cfg.Topic, last)
			return f, err
		case from == x.start:
			return f, nil
		}
	}
}

func parseContent(topic string, r *kgo.Record) (content, error) {
	c := content{key: string(r.Key)}
	err := json.Unmarshal(r.Value, &c)
	if err == nil && c.Epoch < 1 {
		err = fmt.Errorf("its epoch is %d", c.Epoch)
	}
	if err != nil {
		return content{}, &cdc.RefusedError{
			Err:  fmt.Errorf("read topic %s: record at offset %d is not a checkpoint: %w", topic, r.Offset, err),
			Hint: "choose another checkpoint.topic, which only walpost writes to",
		}
	}
	return c, nil
}

func (t *Transactional) extent(ctx context.Context) (x extent, err error) {
	admin := kadm.NewClient(t.base.client.Load())
	if _, err := t.base.countPartitions(ctx, t.cfg.Topic); err != nil {
		return x, err
	}
	for _, ask := range []struct {
		offset *int64
		list   func(context.Context, ...string) (kadm.ListedOffsets, error)
	}{
		{&x.end, admin.ListEndOffsets}, {&x.stable, admin.ListCommittedOffsets}, {&x.start, admin.ListStartOffsets},
	} {
		offsets, err := ask.list(ctx, t.cfg.Topic)
		if err != nil {
			return x, fmt.Errorf("list offsets of topic %s: %w", t.cfg.Topic, err)
		}
		o, _ := offsets.Lookup(t.cfg.Topic, progressPartition)
		if o.Err != nil {
			return x, fmt.Errorf("list offsets of topic %s: %w", t.cfg.Topic, o.Err)
		}
		*ask.offset = o.Offset
	}
	return x, nil
}

// scan looks for the last record of key between from and the end that is
// committed. It reads everything, the markers that end transactions included, and
// decides itself: who reads only committed records stops at the first transaction
// that is open, which may be another slot's.
func (t *Transactional) scan(ctx context.Context, key string, from int64, x extent) (*scanner, error) {
	s := &scanner{key: key, end: x.end, stable: x.stable, open: make(map[int64][]*kgo.Record), fates: make(fates)}
	if from >= x.end {
		return s, nil
	}
	opts := append(t.base.connectOpts(), kgo.KeepControlRecords(), kgo.KeepRetryableFetchErrors(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.cfg.Topic: {progressPartition: kgo.NewOffset().At(from)}}))
	c, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	defer c.Close()
	for !s.reached {
		if err := t.poll(ctx, c, s, pollTimeout); err != nil {
			return nil, err
		}
	}
	for deadline := time.Now().Add(decideTimeout); s.undecided() && time.Now().Before(deadline); {
		if err := t.poll(ctx, c, s, time.Until(deadline)); err != nil && ctx.Err() != nil {
			return nil, err
		}
	}
	return s, nil
}

// poll reads once, for at most limit.
func (t *Transactional) poll(ctx context.Context, c *kgo.Client, s *scanner, limit time.Duration) error {
	pctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no record for %s", limit))
	defer cancel()
	fetches := c.PollFetches(pctx)
	if err := fetchError(fetches); err != nil {
		return fmt.Errorf("read topic %s: %w", t.cfg.Topic, because(pctx, err))
	}
	fetches.EachRecord(s.record)
	return nil
}

// scanner finds the last committed record of a key.
type scanner struct {
	key         string
	end, stable int64
	reached     bool                    // all before the end is read
	open        map[int64][]*kgo.Record // records of the key that no marker has followed, by producer
	last        *kgo.Record
	fates       fates
}

func (s *scanner) record(r *kgo.Record) {
	s.reached = s.reached || r.Offset >= s.end-1
	switch {
	case r.Attrs.IsControl():
		for _, held := range s.open[r.ProducerID] { // of several transactions if brokers left one open
			if isCommit(r) {
				s.keep(held)
				s.fates.committed(held, r)
			}
		}
		delete(s.open, r.ProducerID)
	case r.Offset >= s.end || string(r.Key) != s.key:
	case r.Attrs.IsTransactional():
		s.open[r.ProducerID] = append(s.open[r.ProducerID], r)
		s.fates.seen(r)
	default:
		s.keep(r)
	}
}

func (s *scanner) keep(r *kgo.Record) {
	if s.last == nil || r.Offset > s.last.Offset {
		s.last = r
	}
}

// undecided reports whether the last record is in a transaction that is open, or
// whose commit is acknowledged while its marker is on the way.
func (s *scanner) undecided() bool { return s.pending() != nil }

// pending returns the last record that is not decided, or nil.
func (s *scanner) pending() (last *kgo.Record) {
	for _, held := range s.open {
		if r := held[len(held)-1]; r.Offset >= s.stable && (last == nil || r.Offset > last.Offset) {
			last = r
		}
	}
	return last
}

func (s *scanner) result() *kgo.Record {
	for _, held := range s.open {
		for _, r := range held {
			if r.Offset < s.stable {
				s.keep(r) // decided, and not aborted: its marker is compacted away
				s.fates.marked(r)
			}
		}
	}
	return s.last
}

// isCommit reports whether a control record commits: its key is a version and a
// type, of which 1 is a commit.
// https://kafka.apache.org/documentation/#controlbatch
func isCommit(r *kgo.Record) bool {
	return len(r.Key) >= 4 && binary.BigEndian.Uint16(r.Key[2:]) == 1
}
