package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

// progressTopic finds the last record of a key in the progress topic. Its methods are
// safe for concurrent use, and each is bounded by its context.
type progressTopic struct {
	name        string
	replication int                // of the topic, if it is created
	client      func() *kgo.Client // which asks
	connection  func() []kgo.Opt   // of a client of its own, which reads
	log         *slog.Logger
}

// segmentBytes keeps the segments of a progress topic small: the one that is
// written is not compacted, and each transaction adds a record.
const segmentBytes = "16777216"

// check returns [kerr.UnknownTopicOrPartition] if the topic is not there.
func (p *progressTopic) check(ctx context.Context) error {
	_, err := countPartitions(ctx, p.client(), p.name)
	return err
}

// create creates the topic, and waits until brokers know it.
func (p *progressTopic) create(ctx context.Context) error {
	topic := newTopic{
		name: p.name, partitions: 1, replication: p.replication,
		settings: map[string]string{"cleanup.policy": "compact", "segment.bytes": segmentBytes}, optional: "segment.bytes",
	}
	if _, err := topic.create(ctx, p.client(), p.log); err != nil {
		return fmt.Errorf("create topic %s, with one partition and cleanup.policy=compact: %w", p.name, err)
	}
	for {
		if err := p.check(ctx); !errors.Is(err, kerr.UnknownTopicOrPartition) {
			return err
		}
		if err := wait(ctx, minBackoff); err != nil {
			return err
		}
	}
}

// checkPolicy refuses a topic that forgets. A user who may write it need not be
// allowed to read its settings.
func (p *progressTopic) checkPolicy(ctx context.Context) error {
	configs, err := kadm.NewClient(p.client()).DescribeTopicConfigs(ctx, p.name)
	if isForbidden(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("describe settings of topic %s: %w", p.name, err)
	}
	for _, c := range configs {
		for _, kv := range c.Configs {
			if c.Err == nil && kv.Key == "cleanup.policy" && strings.Contains(kv.MaybeValue(), "delete") {
				return cdc.Refuse("set cleanup.policy=compact on the topic, or choose another checkpoint.topic",
					"topic %s forgets old records, which would lose the checkpoint: its cleanup.policy is %s", p.name, kv.MaybeValue())
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

// last is what the topic says of a key.
type last struct {
	record  *kgo.Record // the last that counts, or nil
	fates   fates       // of the transactions that were read
	pending *kgo.Record // the last of a transaction that is not decided, or nil
}

// last returns what the topic says of key. It goes back from the end. The error is
// [kerr.UnknownTopicOrPartition] if there is no topic.
func (p *progressTopic) last(ctx context.Context, key string) (l last, err error) {
	x, err := p.extent(ctx)
	if err != nil {
		return l, err
	}
	for window := int64(firstWindow); ; window *= windowGrowth {
		from := max(x.start, x.end-window)
		s, err := p.scan(ctx, key, from, x)
		if err != nil {
			return l, err
		}
		l = last{s.result(), s.fates, s.pending()}
		if l.record != nil || from == x.start {
			return l, nil
		}
	}
}

func (p *progressTopic) extent(ctx context.Context) (x extent, err error) {
	admin := kadm.NewClient(p.client())
	if err := p.check(ctx); err != nil {
		return x, err
	}
	for _, ask := range []struct {
		offset *int64
		list   func(context.Context, ...string) (kadm.ListedOffsets, error)
	}{
		{&x.end, admin.ListEndOffsets}, {&x.stable, admin.ListCommittedOffsets}, {&x.start, admin.ListStartOffsets},
	} {
		offsets, err := ask.list(ctx, p.name)
		if err != nil {
			return x, fmt.Errorf("list offsets of topic %s: %w", p.name, err)
		}
		o, _ := offsets.Lookup(p.name, progressPartition)
		if o.Err != nil {
			return x, fmt.Errorf("list offsets of topic %s: %w", p.name, o.Err)
		}
		*ask.offset = o.Offset
	}
	return x, nil
}

// scan looks for the last record of key between from and the end that is
// committed. It reads everything, the markers that end transactions included, and
// decides itself: who reads only committed records stops at the first transaction
// that is open, which may be another slot's.
func (p *progressTopic) scan(ctx context.Context, key string, from int64, x extent) (*scanner, error) {
	s := &scanner{key: key, end: x.end, stable: x.stable, open: make(map[int64][]*kgo.Record), fates: make(fates)}
	if from >= x.end {
		return s, nil
	}
	opts := append(p.connection(), kgo.KeepControlRecords(), kgo.KeepRetryableFetchErrors(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{p.name: {progressPartition: kgo.NewOffset().At(from)}}))
	c, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	defer c.Close()
	for !s.reached {
		if err := p.poll(ctx, c, s, pollTimeout); err != nil {
			return nil, err
		}
	}
	for deadline := time.Now().Add(decideTimeout); s.undecided() && time.Now().Before(deadline); {
		if err := p.poll(ctx, c, s, time.Until(deadline)); err != nil && ctx.Err() != nil {
			return nil, err
		}
	}
	return s, nil
}

// poll reads once, for at most limit.
func (p *progressTopic) poll(ctx context.Context, c *kgo.Client, s *scanner, limit time.Duration) error {
	pctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no record for %s", limit))
	defer cancel()
	fetches := c.PollFetches(pctx)
	if err := fetchError(fetches); err != nil {
		return fmt.Errorf("read topic %s: %w", p.name, because(pctx, err))
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
