package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
)

const (
	// maxFetchBytes is how much a reader asks for at a time. A larger record
	// comes all the same.
	maxFetchBytes = 4 << 20

	// maxFetchWait is how long a broker waits for something to come.
	maxFetchWait = 5 * time.Second
)

// Reader reads one partition of a topic: what is committed, if transactions are
// used. It implements [cdc.LetterLog]. It is for one goroutine at a time.
type Reader struct {
	cfg       Config
	topic     string
	partition int32

	client  *kgo.Client  // nil before the first use
	next    int64        // the offset that client reads on from
	id      kadm.TopicID // the topic's, when it was last read; zero if it never was, or brokers give none
	same    bool         // the client reads the topic of that id
	repeats circuit.Repeats

	trouble atomic.Pointer[error] // why nothing can be read, or nil
}

// NewReader returns a Reader, or all problems of cfg. It does not dial. The Reader
// must be closed.
func NewReader(cfg Config, topic string, partition int32) (*Reader, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Reader{cfg: cfg, topic: topic, partition: partition}, nil
}

// Close ends the connections.
func (r *Reader) Close() {
	if r.client != nil {
		r.client.Close()
	}
	r.client = nil
}

// Healthy returns why Fetch cannot read the topic, or nil. Safe to call from any
// goroutine.
func (r *Reader) Healthy() error {
	if err := r.trouble.Load(); err != nil {
		return fmt.Errorf("kafka: %w", *err)
	}
	return nil
}

// Fetch implements [cdc.LetterLog].
func (r *Reader) Fetch(ctx context.Context, from int64) ([]cdc.Logged, error) {
	for {
		recs, err := r.poll(ctx, from)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, cdc.ErrAnotherLog):
			return nil, err
		case err != nil:
			r.warn(err)
			if err := wait(ctx, maxBackoff); err != nil {
				return nil, err
			}
			continue
		}
		var out []cdc.Logged
		for _, rec := range recs {
			from = rec.Offset + 1
			if !rec.Attrs.IsControl() {
				out = append(out, logged(rec))
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
}

// ErrNoTopic and ErrNotAllowed are what ReadAll returns for a topic that does not
// exist, or that the user may not see.
var (
	ErrNoTopic    = errors.New("topic does not exist")
	ErrNotAllowed = errors.New("topic may not be read")
)

// ReadAll calls fn for each record from the first to what is the last one when
// ReadAll is called, until fn fails. Unlike Fetch it waits for no outage.
func (r *Reader) ReadAll(ctx context.Context, fn func(cdc.Logged) error) error {
	start, end, err := r.bounds(ctx)
	if err != nil {
		return err
	}
	for at := start; at < end; {
		recs, err := r.poll(ctx, at)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			if at = rec.Offset + 1; at > end || rec.Attrs.IsControl() {
				continue
			}
			if err := fn(logged(rec)); err != nil {
				return err
			}
		}
	}
	return nil
}

// bounds returns the first offset, and the one after the last.
func (r *Reader) bounds(ctx context.Context) (start, end int64, err error) {
	if err := r.seek(r.next); err != nil {
		return 0, 0, err
	}
	admin := kadm.NewClient(r.client)
	starts, err := admin.ListStartOffsets(ctx, r.topic)
	if err == nil {
		err = starts.Error()
	}
	ends := starts
	if err == nil {
		ends, err = admin.ListCommittedOffsets(ctx, r.topic)
	}
	if err == nil {
		err = ends.Error()
	}
	first, ok := starts.Lookup(r.topic, r.partition)
	last, ok2 := ends.Lookup(r.topic, r.partition)
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition) || err == nil && (!ok || !ok2):
		return 0, 0, fmt.Errorf("read topic %s: %w", r.topic, ErrNoTopic)
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return 0, 0, fmt.Errorf("read topic %s: %w: %w", r.topic, ErrNotAllowed, err)
	case err != nil:
		return 0, 0, fmt.Errorf("read topic %s: %w", r.topic, err)
	}
	return first.Offset, last.Offset, nil
}

// poll returns what comes next, control records too.
func (r *Reader) poll(ctx context.Context, from int64) ([]*kgo.Record, error) {
	if err := r.seek(from); err != nil {
		return nil, err
	}
	if err := r.identify(ctx); err != nil {
		return nil, r.failed(err)
	}
	fetches := r.client.PollFetches(ctx)
	if err := cmp.Or(context.Cause(ctx), fetchError(fetches), topicGone(fetches)); err != nil {
		return nil, r.failed(err)
	}
	r.trouble.Store(nil)
	recs := fetches.Records()
	if len(recs) > 0 {
		r.next = recs[len(recs)-1].Offset + 1
	}
	return recs, nil
}

// failed closes the client, whose successor begins at the same place.
func (r *Reader) failed(err error) error {
	r.Close()
	if errors.Is(err, kerr.TopicAuthorizationFailed) {
		err = fmt.Errorf("%w: %w", ErrNotAllowed, err)
	}
	return fmt.Errorf("read topic %s: %w", r.topic, err)
}

// identify asks, for a new client, whether the topic is the one that was read before. Offsets
// alone do not tell: in another one that is as long nothing would come.
func (r *Reader) identify(ctx context.Context) error {
	if r.same {
		return nil
	}
	topics, err := kadm.NewClient(r.client).ListTopics(ctx, r.topic)
	if err == nil {
		err = topics[r.topic].Err
	}
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	none, before, now := kadm.TopicID{}, r.id, topics[r.topic].ID
	r.same = true
	if now == none { // of a broker that gives none, which tells nothing
		return nil
	}
	r.id = now
	if before != none && before != now {
		return cdc.ErrAnotherLog
	}
	return nil
}

// topicGone returns an error that says that the topic is not there. It passes by itself for none
// but a new client: one never adopts a topic that was deleted and created again.
func topicGone(fetches kgo.Fetches) error {
	for _, e := range fetches.Errors() {
		if errors.Is(e.Err, kerr.UnknownTopicID) || errors.Is(e.Err, kerr.UnknownTopicOrPartition) {
			return e.Err
		}
	}
	return nil
}

// seek makes the client read on from an offset.
func (r *Reader) seek(from int64) error {
	if r.client != nil && r.next == from {
		return nil
	}
	r.Close()
	c, err := kgo.NewClient(append(r.cfg.connection(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: {r.partition: kgo.NewOffset().At(from)}}),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.KeepRetryableFetchErrors(),
		kgo.FetchMaxBytes(maxFetchBytes), kgo.FetchMaxPartitionBytes(maxFetchBytes),
		kgo.FetchMaxWait(maxFetchWait), kgo.MaxConcurrentFetches(1),
	)...)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	r.client, r.next, r.same = c, from, false
	return nil
}

func (r *Reader) warn(err error) {
	r.trouble.Store(&err)
	r.repeats.Log(r.cfg.Logger, slog.LevelWarn, "read", "topic can not be read, trying again", "topic", r.topic, "err", err, "hint", hintFor(err))
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func logged(rec *kgo.Record) cdc.Logged {
	r := &cdc.Record{Topic: rec.Topic, Partition: rec.Partition, Key: rec.Key, Value: rec.Value, Timestamp: rec.Timestamp}
	for _, h := range rec.Headers {
		r.Headers = append(r.Headers, cdc.Header{Key: h.Key, Value: h.Value})
	}
	return cdc.Logged{Record: r, Offset: rec.Offset}
}

// Trim implements [cdc.LetterLog]. It fails if the user may not delete records, or no
// answer comes within 10 s.
func (r *Reader) Trim(ctx context.Context, before int64) error {
	if err := r.seek(r.next); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	var to kadm.Offsets
	to.AddOffset(r.topic, r.partition, before, -1)
	resp, err := kadm.NewClient(r.client).DeleteRecords(ctx, to)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		return fmt.Errorf("trim topic %s: %w", r.topic, err)
	}
	return nil
}
