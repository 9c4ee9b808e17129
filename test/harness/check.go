package harness

import (
	"context"
	"crypto/md5" //nolint:gosec // compares bytes; nobody attacks
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Report is what a check of Kafka against a ledger found.
type Report struct {
	Expected   int
	Received   int // records, repeats included
	Lost       int // committed, not in Kafka
	Invented   int // in Kafka, not committed
	Duplicated int // arrived again
	Reordered  int // first arrived after a later event of the same key
	Changed    int // key, value or headers differ
	Misplaced  int // in another partition than the Java client would choose

	Examples []string // of what is wrong; a few
}

// OK reports whether all is as promised, repeats aside.
func (r Report) OK() bool {
	return r.Lost+r.Invented+r.Reordered+r.Changed+r.Misplaced == 0 && r.Received-r.Duplicated == r.Expected
}

// String prints the figures in one line.
func (r Report) String() string {
	s := fmt.Sprintf("expected %d, received %d, lost %d, invented %d, duplicated %d, reordered %d, changed %d, misplaced %d",
		r.Expected, r.Received, r.Lost, r.Invented, r.Duplicated, r.Reordered, r.Changed, r.Misplaced)
	if len(r.Examples) > 0 {
		s += "\n  " + strings.Join(r.Examples, "\n  ")
	}
	return s
}

func (r *Report) example(format string, args ...any) {
	if len(r.Examples) < 10 {
		r.Examples = append(r.Examples, fmt.Sprintf(format, args...))
	}
}

// Check reads the topics from their beginnings to where they end now, and
// compares them with the ledger, whose Seen counts it sets.
func Check(ctx context.Context, brokers []string, ledger Ledger, topics ...string) (Report, error) {
	return check(ctx, brokers, ledger, topics, Consume)
}

// CheckCommitted is Check for what a consumer of committed records sees.
func CheckCommitted(ctx context.Context, brokers []string, ledger Ledger, topics ...string) (Report, error) {
	return check(ctx, brokers, ledger, topics, ConsumeCommitted)
}

func check(ctx context.Context, brokers []string, ledger Ledger, topics []string,
	consume func(context.Context, []string, []string, func(*kgo.Record, int32)) error,
) (Report, error) {
	for _, e := range ledger {
		e.Seen = 0
	}
	r := Report{Expected: len(ledger)}
	c := &checker{ledger: ledger, last: map[string]int64{}, report: &r}
	if err := consume(ctx, brokers, topics, c.record); err != nil {
		return r, err
	}
	for id, e := range ledger {
		if e.Seen == 0 {
			r.Lost++
			r.example("lost: %s, key %s, seq %d", id, e.Key, e.Seq)
		}
	}
	return r, nil
}

type checker struct {
	ledger Ledger
	last   map[string]int64 // highest first-seen seq of a key
	report *Report
}

func (c *checker) record(rec *kgo.Record, partitions int32) {
	r := c.report
	r.Received++
	id, e := c.find(rec)
	if e == nil {
		r.Invented++
		r.example("invented: %s/%d@%d id %s", rec.Topic, rec.Partition, rec.Offset, id)
		return
	}
	e.Seen++
	if e.Seen > 1 {
		r.Duplicated++
	} else if c.last[e.Key] > e.Seq {
		r.Reordered++
		r.example("reordered: %s, key %s, seq %d after %d", id, e.Key, e.Seq, c.last[e.Key])
	}
	c.last[e.Key] = max(c.last[e.Key], e.Seq)
	if string(rec.Key) != e.Key || (rec.Value == nil) != e.Null || !e.Null && Digest(md5.Sum(rec.Value)) != e.Value {
		r.Changed++
		r.example("changed: %s, key %q, value of %d bytes", id, rec.Key, len(rec.Value))
	}
	if want := Murmur2Partition(rec.Key, partitions); rec.Partition != want {
		r.Misplaced++
		r.example("misplaced: key %q in partition %d, want %d of %d", rec.Key, rec.Partition, want, partitions)
	}
}

// find reads the header id, which must be the first.
func (c *checker) find(rec *kgo.Record) (string, *Entry) {
	if len(rec.Headers) == 0 || rec.Headers[0].Key != "id" {
		return "without a header id", nil
	}
	text := string(rec.Headers[0].Value)
	id, err := uuid.Parse(text)
	if err != nil || id.String() != text {
		return text, nil
	}
	return text, c.ledger[id]
}

// Murmur2Partition is the partition that the Java client's default partitioner
// chooses for a key: toPositive(murmur2(key)) modulo the partitions.
func Murmur2Partition(key []byte, partitions int32) int32 {
	const m, r, seed = uint32(0x5bd1e995), 24, uint32(0x9747b28c)
	h := seed ^ uint32(len(key))
	for ; len(key) >= 4; key = key[4:] {
		k := uint32(key[0]) | uint32(key[1])<<8 | uint32(key[2])<<16 | uint32(key[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h = h*m ^ k
	}
	switch len(key) {
	case 3:
		h ^= uint32(key[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(key[0])) * m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return int32(h&0x7fffffff) % partitions
}

// stuckTimeout is how long no record may come while some are missing.
const stuckTimeout = 30 * time.Second

// place is a partition of a topic.
type place struct {
	topic     string
	partition int32
}

// Consume calls fn for each record up to the topics' present ends, in order
// within a partition, also for records of transactions that are open or aborted.
// The markers that end transactions take offsets too; fn does not see them.
func Consume(ctx context.Context, brokers, topics []string, fn func(*kgo.Record, int32)) error {
	return consume(ctx, brokers, topics, fn)
}

// ConsumeCommitted is Consume for a consumer of committed records. It waits for
// what is open to be decided.
func ConsumeCommitted(ctx context.Context, brokers, topics []string, fn func(*kgo.Record, int32)) error {
	return consume(ctx, brokers, topics, fn, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
}

func consume(ctx context.Context, brokers, topics []string, fn func(*kgo.Record, int32), opts ...kgo.Opt) error {
	opts = append(opts, kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topics...), kgo.KeepControlRecords(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(4<<20))
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("read end offsets: %w", err)
	}
	missing := map[place]bool{}
	partitions := map[string]int32{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			missing[place{o.Topic, o.Partition}] = true
		}
		partitions[o.Topic]++
	})
	for len(missing) > 0 {
		fctx, cancel := context.WithTimeoutCause(ctx, stuckTimeout, fmt.Errorf("no record for %s, %d partitions not at their end", stuckTimeout, len(missing)))
		fetches := cl.PollFetches(fctx)
		err := context.Cause(fctx)
		cancel()
		if err != nil {
			return fmt.Errorf("read topics: %w", err)
		}
		if errs := fetches.Errors(); len(errs) > 0 {
			return fmt.Errorf("read topic %s: %w", errs[0].Topic, errs[0].Err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			end, _ := ends.Lookup(rec.Topic, rec.Partition)
			if rec.Offset >= end.Offset-1 {
				delete(missing, place{rec.Topic, rec.Partition})
			}
			if rec.Offset < end.Offset && !rec.Attrs.IsControl() {
				fn(rec, partitions[rec.Topic])
			}
		})
	}
	return nil
}

// Count returns how many records the topics hold, repeats included, and the markers
// of transactions. A topic that
// is not there holds none.
func Count(ctx context.Context, brokers []string, topics ...string) (int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topics...)
	if err != nil {
		return 0, err
	}
	n := int64(0)
	ends.Each(func(o kadm.ListedOffset) { n += max(0, o.Offset) })
	return n, nil
}
