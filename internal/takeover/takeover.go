// Package takeover finds where another publisher of a slot, as Debezium, has stopped: not
// by what that says of itself, but by what is in Kafka.
package takeover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/outbox"
)

// Source reads what the slot keeps, once.
type Source interface {
	cdc.Source

	// Done is closed once everything has been handed over.
	Done() <-chan struct{}
}

// Config says where to look.
type Config struct {
	// Open returns a source of what lies behind the slot's confirmed position. It is
	// called twice.
	Open func() (Source, error)

	// Route makes the record that the other publisher has made, too.
	Route func(*cdc.Event) (*cdc.Record, error)

	// Client reaches the brokers.
	Client []kgo.Opt

	// From is the slot's confirmed position, on Server.
	From   cdc.LSN
	Server cdc.Position
}

// Result is what was found.
type Result struct {
	// Position is where to go on: behind the last event before which none is missing.
	Position cdc.Position `json:"position"`

	Events    int64 `json:"events"`    // behind the confirmed position
	Published int64 `json:"published"` // of them, up to Position
	Again     int64 `json:"again"`     // that are in Kafka and behind it, and will be repeated
}

// maxEvents bounds the ids that are in memory, some 100 bytes each.
const maxEvents = 5_000_000

// Find looks for each event that the slot keeps in its topic, by the id in its header. The
// other publisher must have stopped.
func Find(ctx context.Context, cfg Config) (Result, error) {
	counts := map[string]int64{}
	first := walk{route: cfg.Route, event: func(rec *cdc.Record, _ cdc.Transaction, _ int64) { counts[rec.Topic]++ }}
	if err := first.run(ctx, cfg.Open); err != nil {
		return Result{}, err
	}
	total := int64(0)
	for _, n := range counts {
		total += n
	}
	if total > maxEvents {
		return Result{}, cdc.Refuse("start the other publisher once more and stop it in good order, so that the slot is confirmed further on",
			"the slot keeps %d events behind its confirmed position, more than %d", total, maxEvents)
	}
	found, err := ids(ctx, cfg.Client, counts)
	if err != nil {
		return Result{}, err
	}
	f := finder{found: found, result: Result{Events: total, Position: cfg.Server}}
	f.result.Position.LSN = cfg.From
	second := walk{route: cfg.Route, event: f.event, commit: f.commit}
	if err := second.run(ctx, cfg.Open); err != nil {
		return Result{}, err
	}
	return f.result, nil
}

// finder finds the first event that is missing.
type finder struct {
	found   map[string]bool
	missing bool
	result  Result
}

func (f *finder) event(rec *cdc.Record, tx cdc.Transaction, ordinal int64) {
	there := f.found[string(rec.ID)]
	f.missing = f.missing || !there
	switch {
	case !f.missing:
		f.result.Published++
		f.result.Position.Partial = cdc.Partial{CommitLSN: tx.CommitLSN, Rows: ordinal, LastID: string(rec.ID)}
	case there:
		f.result.Again++
	}
}

func (f *finder) commit(end cdc.LSN) {
	if !f.missing {
		f.result.Position.LSN, f.result.Position.Partial = end, cdc.Partial{}
	}
}

// walk reads the slot's events once. It implements [cdc.Handler].
type walk struct {
	route  func(*cdc.Event) (*cdc.Record, error)
	event  func(rec *cdc.Record, tx cdc.Transaction, ordinal int64)
	commit func(end cdc.LSN) // or nil

	tx      cdc.Transaction
	ordinal int64
}

func (w *walk) run(ctx context.Context, open func() (Source, error)) error {
	source, err := open()
	if err != nil {
		return err
	}
	stream, err := source.Open(ctx, func(context.Context, cdc.Position) (cdc.Position, error) { return cdc.Position{}, nil })
	if err != nil {
		return err
	}
	sctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-source.Done():
			stream.Stop()
			stop()
		case <-sctx.Done():
		}
	}()
	return errors.Join(stream.Run(sctx, w), context.Cause(ctx), stream.Close())
}

// Begin implements [cdc.Handler].
func (w *walk) Begin(tx cdc.Transaction) error {
	w.tx, w.ordinal = tx, 0
	return nil
}

// Insert implements [cdc.Handler].
func (w *walk) Insert(_ context.Context, ev *cdc.Event) error {
	w.ordinal++
	ev.Ordinal = w.ordinal
	rec, err := w.route(ev)
	if errors.Is(err, cdc.ErrSkip) {
		return nil
	}
	if rec == nil {
		return err
	}
	w.event(rec, w.tx, w.ordinal) // also one that cannot be published: it is in no topic
	rec.Free()
	return nil
}

// Commit implements [cdc.Handler].
func (w *walk) Commit(end cdc.LSN) error {
	if w.commit != nil {
		w.commit(end)
	}
	return nil
}

// Idle implements [cdc.Handler].
func (*walk) Idle(cdc.LSN) {}

// silence is how long no record may come while some are missing.
const silence = 30 * time.Second

// Of each partition twice as many records are read, from the end, as can have been written
// there, and some more: repeats may be among them.
const someMore = 10_000

// ids returns those of the last records of topics, of which each may have so many.
func ids(ctx context.Context, opts []kgo.Opt, counts map[string]int64) (map[string]bool, error) {
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	defer client.Close()
	var topics []string
	for topic := range counts {
		if topic != "" {
			topics = append(topics, topic)
		}
	}
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	ends, err := admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	from, missing := map[string]map[int32]kgo.Offset{}, map[string]map[int32]int64{}
	for topic, partitions := range ends {
		for p, end := range partitions {
			start, _ := starts.Lookup(topic, p)
			if errors.Is(end.Err, kerr.UnknownTopicOrPartition) {
				continue // nothing was published there
			}
			if err := errors.Join(end.Err, start.Err); err != nil {
				return nil, fmt.Errorf("list offsets of topic %s: %w", topic, err)
			}
			begin := max(start.Offset, end.Offset-2*counts[topic]-someMore)
			if begin == end.Offset {
				continue
			}
			if from[topic] == nil {
				from[topic], missing[topic] = map[int32]kgo.Offset{}, map[int32]int64{}
			}
			from[topic][p], missing[topic][p] = kgo.NewOffset().At(begin), end.Offset
		}
	}
	return read(ctx, append(opts, kgo.ConsumePartitions(from), kgo.KeepControlRecords()), missing)
}

// read reads up to the ends of partitions.
func read(ctx context.Context, opts []kgo.Opt, ends map[string]map[int32]int64) (map[string]bool, error) {
	found := map[string]bool{}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	defer client.Close()
	for len(ends) > 0 {
		pctx, cancel := context.WithTimeoutCause(ctx, silence, fmt.Errorf("no record for %s", silence))
		fetches := client.PollFetches(pctx)
		cause := context.Cause(pctx)
		cancel()
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read topics: %w", errors.Join(err, cause))
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset >= ends[r.Topic][r.Partition]-1 {
				delete(ends[r.Topic], r.Partition)
				if len(ends[r.Topic]) == 0 {
					delete(ends, r.Topic)
				}
			}
			for _, h := range r.Headers {
				if h.Key == outbox.HeaderID {
					found[string(h.Value)] = true
					break
				}
			}
		})
	}
	return found, nil
}
