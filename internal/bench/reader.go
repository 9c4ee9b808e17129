package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

// reader is the consumer: it reads what is committed, and keeps the books. It is for
// one goroutine at a time.
type reader struct {
	client   *kgo.Client
	topic    string
	patience time.Duration

	tally
	next  map[int32]int64             // offset by partition
	fresh func(n int64, at time.Time) // called for each event that is new, or nil
}

// newReader starts to read, from the first record on.
func (b *bench) newReader() (*reader, error) {
	cl, err := kgo.NewClient(append(b.cfg.Kafka[:len(b.cfg.Kafka):len(b.cfg.Kafka)],
		kgo.ConsumeTopics(b.names.Topic()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.KeepRetryableFetchErrors(),
		kgo.FetchMaxWait(time.Second))...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	return &reader{
		client: cl, topic: b.names.Topic(), patience: b.cfg.Patience,
		tally: newTally(b.cfg.Events+b.cfg.plan().events, b.cfg.Bytes), next: map[int32]int64{},
	}, nil
}

func (r *reader) close() { r.client.Close() }

// until reads until done says so. It fails if nothing new comes for as long as the
// patience lasts.
func (r *reader) until(ctx context.Context, done func() bool) error {
	var trouble error
	last := time.Now()
	for !done() {
		pctx, cancel := context.WithTimeoutCause(ctx, r.patience-time.Since(last), errQuiet)
		fetches := r.client.PollFetches(pctx)
		cause, at, before := context.Cause(pctx), time.Now(), r.tally
		cancel()
		fetches.EachRecord(func(rec *kgo.Record) { r.take(rec, at) })
		if r.received > before.received || r.probed != before.probed {
			last, trouble = at, nil
			continue
		}
		for _, e := range fetches.Errors() {
			if errors.Is(e.Err, kerr.TopicAuthorizationFailed) {
				return forbidden(fmt.Errorf("read topic %s: %w", r.topic, e.Err))
			}
			if cause == nil {
				trouble = e.Err
			}
		}
		if errors.Is(cause, errQuiet) {
			return r.quiet(trouble)
		}
		if cause != nil {
			return cause
		}
	}
	return nil
}

var errQuiet = errors.New("nothing new has arrived")

func (r *reader) quiet(trouble error) error {
	err := fmt.Errorf("%w for %s, after %d events", errQuiet, r.patience, r.received)
	if trouble != nil {
		err = fmt.Errorf("%w: %s", err, cdc.OneLine(trouble))
	}
	return err
}

// take enters a record in the books.
func (r *reader) take(rec *kgo.Record, at time.Time) {
	r.next[rec.Partition] = rec.Offset + 1
	if rec.Attrs.IsControl() {
		return
	}
	var id []byte
	for _, h := range rec.Headers {
		if h.Key == "id" {
			id = h.Value
		}
	}
	if n, fresh := r.add(id, rec.Value); fresh && r.fresh != nil {
		r.fresh(n, at)
	}
}

// rest reads what there is behind the last event that was missing: there should be
// nothing, and what is there twice is seen here at the latest.
func (r *reader) rest(ctx context.Context) error {
	kctx, cancel := context.WithTimeout(ctx, kafkaTimeout)
	defer cancel()
	ends, err := kadm.NewClient(r.client).ListCommittedOffsets(kctx, r.topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("list offsets of topic %s: %w", r.topic, err)
	}
	return r.until(ctx, func() bool {
		done := true
		ends.Each(func(o kadm.ListedOffset) { done = done && r.next[o.Partition] >= o.Offset })
		return done
	})
}

// tally counts events by their numbers, which go from 1 to as many as are written.
// Number 0 is a probe, and does not count.
type tally struct {
	events, bytes int
	seen          []uint64 // a bit for each number

	received   int // distinct
	duplicated int
	changed    int // not as it was written
	probed     bool
}

func newTally(events, bytes int) tally {
	return tally{events: events, bytes: bytes, seen: make([]uint64, events/64+1)}
}

// add counts an event, and returns its number and whether it is a new one.
func (t *tally) add(id, value []byte) (n int64, fresh bool) {
	n, ok := number(value)
	switch {
	case !ok || n < 0 || n > int64(t.events):
		t.changed++
		return n, false
	case n == 0:
		t.probed = true
		return n, false
	case t.seen[n/64]&(1<<(n%64)) != 0:
		t.duplicated++
		return n, false
	}
	t.seen[n/64] |= 1 << (n % 64)
	t.received++
	if len(value) != t.bytes || string(id) != eventID(n) {
		t.changed++
	}
	return n, true
}

// number reads it from a payload.
func number(value []byte) (int64, bool) {
	rest, found := bytes.CutPrefix(value, []byte(payloadBegin))
	digits, _, closed := bytes.Cut(rest, []byte(","))
	n, err := strconv.ParseInt(string(digits), 10, 64)
	return n, found && closed && err == nil
}

// eventID is the id that the insertion gives a number.
func eventID(n int64) string {
	sum := sha256.Sum256(strconv.AppendInt(nil, n, 10))
	return uuid.UUID(sum[:16]).String()
}
