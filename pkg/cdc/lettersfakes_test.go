package cdc_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
	"github.com/walpost/walpost/pkg/deadletter"
	"github.com/walpost/walpost/pkg/sink/sinktest"
)

const dlq = "dlq"

// topics is what is durable in Kafka, whichever process wrote it.
type topics struct {
	mu       sync.Mutex          // guards all below
	letters  []cdc.Record        // the dead-letter topic
	first    int64               // offset of the first of them that was not trimmed
	grew     chan struct{}       // closed when they are more
	events   map[string][]string // the topic t by key, in order
	stalled  map[int]bool        // partitions of t, and -1 for the dead-letter topic, that keep nothing
	slow     time.Duration
	logPace  time.Duration // of each read of the log
	another  bool          // it was created again, and nobody was told of that
	trims    int           // how often it was to be trimmed
	trimming time.Duration // that each takes

	mayNotTrim bool
	away       chan struct{} // if not nil, closed once the log can be read

	fault     cdc.LetterKind // letters that are never answered for
	faultKept bool           // and are kept all the same

	refusedKind cdc.LetterKind // letters that the broker refuses

	bad     map[string]bool // events that the topic does not take
	refused map[string]bool // those that the broker refuses after they were taken
	wasBad  map[string]bool
}

func newTopics() *topics {
	return &topics{grew: make(chan struct{}), events: map[string][]string{}, stalled: map[int]bool{}, bad: map[string]bool{}, refused: map[string]bool{}, wasBad: map[string]bool{}}
}

const topicPartitions = 2

// keep is the outcome of a record: in each partition all is kept in order, up to
// some moment, and what comes after that is neither kept nor answered.
func (c *topics) keep(r *cdc.Record) sinktest.Outcome {
	time.Sleep(c.slow)
	c.mu.Lock()
	defer c.mu.Unlock()
	partition := -1
	if r.Topic != dlq {
		partition = sinktest.Partition(r.Key, topicPartitions)
	}
	switch {
	case c.stalled[partition]:
		return sinktest.Outcome{Lost: true, Silent: true}
	case r.Topic != dlq && c.refused[string(r.Value)]:
		return sinktest.Outcome{Lost: true, Err: cdc.Poison(cdc.PoisonRefused, "refused by the broker")}
	case r.Topic == dlq && c.refusedKind != "" && kindOf(r) == c.refusedKind:
		return sinktest.Outcome{Lost: true, Err: cdc.Poison(cdc.PoisonRefused, "refused by the broker")}
	case r.Topic == dlq && c.fault != "" && kindOf(r) == c.fault:
		if c.faultKept {
			c.add(r)
		}
		c.stalled[-1] = true
		return sinktest.Outcome{Lost: true, Silent: true}
	case r.Topic == dlq:
		c.add(r)
	default:
		c.events[string(r.Key)] = append(c.events[string(r.Key)], string(r.Value))
	}
	return sinktest.Outcome{}
}

func cloneRecord(r *cdc.Record) cdc.Record {
	c := cdc.Record{Topic: r.Topic, Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value), Partition: r.Partition, Timestamp: r.Timestamp}
	for _, h := range r.Headers {
		c.Headers = append(c.Headers, cdc.Header{Key: h.Key, Value: bytes.Clone(h.Value)})
	}
	return c
}

// Fetch implements cdc.LetterLog.
func (c *topics) Fetch(ctx context.Context, from int64) ([]cdc.Logged, error) {
	c.mu.Lock()
	pace := c.logPace
	c.mu.Unlock()
	select {
	case <-time.After(pace):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if c.away != nil {
		select {
		case <-c.away:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	for {
		found, grew := c.from(from)
		if c.isAnother() {
			return nil, cdc.ErrAnotherLog
		}
		if len(found) > 0 {
			return found, nil
		}
		select {
		case <-grew:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (c *topics) from(from int64) ([]cdc.Logged, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []cdc.Logged
	for i := max(from, c.first); i < int64(len(c.letters)) && len(found) < 5; i++ {
		r := cloneRecord(&c.letters[i])
		found = append(found, cdc.Logged{Record: &r, Offset: i})
	}
	return found, c.grew
}

// add puts a letter into the log. The lock must be held.
func (c *topics) add(r *cdc.Record) {
	c.letters = append(c.letters, cloneRecord(r))
	close(c.grew)
	c.grew = make(chan struct{})
}

// Trim implements cdc.LetterLog.
func (c *topics) Trim(_ context.Context, before int64) error {
	time.Sleep(c.trimming)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trims++
	if c.mayNotTrim {
		return errors.New("not allowed")
	}
	c.first = max(c.first, before)
	return nil
}

func kindOf(r *cdc.Record) cdc.LetterKind {
	l, err := deadletter.Decode(r)
	if err != nil {
		return ""
	}
	return l.Kind
}

func (c *topics) answer(request string) *cdc.Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.letters {
		if l, err := deadletter.Decode(&c.letters[i]); err == nil && l.Kind == cdc.LetterAnswer && l.Answer.Request == request {
			return l.Answer
		}
	}
	return nil
}

func (c *topics) request(q cdc.Request) {
	c.write(&cdc.Letter{Kind: cdc.LetterRequest, Slot: "s", Request: &q})
}

// write adds a letter as another process would.
func (c *topics) write(l *cdc.Letter) {
	r := l.Event
	if r == nil {
		r = cdc.NewRecord()
	}
	l.Time = time.Now()
	deadletter.Encode(dlq, l, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(r)
}

func (c *topics) lots(t *testing.T) *cdc.Lots {
	t.Helper()
	lots := cdc.NewLots("s")
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := int(c.first); i < len(c.letters); i++ {
		l, err := deadletter.Decode(&c.letters[i])
		if err != nil {
			t.Fatal(err)
		}
		l.Offset = int64(i)
		lots.Apply(l)
	}
	return lots
}

func (c *topics) set(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
}

func (c *topics) isBad(event string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad[event]
}

// picky is a sink whose topic refuses bad events.
type picky struct {
	*sinktest.Memory
	topics *topics
}

// reopen puts a new sink in the place of one that has given up.
func (p *picky) reopen(ctx context.Context) error {
	if err := p.Flush(ctx); err != nil {
		return err
	}
	p.Close()
	p.Memory = p.topics.sink()
	return nil
}

func (c *topics) sink() *sinktest.Memory {
	return sinktest.NewMemory(sinktest.MemoryConfig{Partitions: topicPartitions, MaxInFlight: 20, Outcome: c.keep})
}

func (p *picky) Produce(ctx context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	if r.Topic != dlq && p.topics.isBad(string(r.Value)) {
		return cdc.Poison(cdc.PoisonOversize, "too large for the topic")
	}
	return p.Memory.Produce(ctx, r, done)
}

// mourner is a pipeline with dead letters that can be restarted.
type mourner struct {
	t      *testing.T
	store  *checkpointtest.Memory
	server *server
	topics *topics
	log    *slog.Logger

	interval time.Duration // between two saves
	limit    int           // of dead letters that are open
	parked   int           // limit of events that are parked
	cluster  *cluster      // that it delivers to exactly once; nil: topics at least once
	check    func(context.Context) error
	dying    checkpointtest.Fault // what becomes of a call that is under way when the process is killed

	cancel context.CancelFunc
	ended  chan error
	close  func()
	p      *cdc.Pipeline
}

func newMourner(t *testing.T, txs ...scriptTx) *mourner {
	store := checkpointtest.NewMemory()
	return &mourner{t: t, store: store, server: newServer(t, store, txs...), topics: newTopics(), log: slog.New(slog.DiscardHandler), interval: 10 * time.Millisecond}
}

func (m *mourner) start() {
	ctx, cancel := context.WithCancel(m.t.Context())
	cfg := cdc.Config{
		Source: m.server, Route: routeOrNot, Logger: m.log, Check: m.check,
		DrainTimeout: 100 * time.Millisecond, CheckpointInterval: m.interval,
		DeadLetters: &cdc.DeadLetters{
			Topic: dlq, Slot: "s", Log: m.topics, Decode: deadletter.Decode, Max: m.limit, MaxParked: m.parked,
			Encode: func(l *cdc.Letter, r *cdc.Record) { deadletter.Encode(dlq, l, r) },
		},
	}
	if m.cluster != nil {
		m.deliverExactlyOnce(&cfg)
	} else {
		sink := &picky{m.topics.sink(), m.topics}
		cfg.Sink, cfg.Reopen, cfg.Store, m.close = sink, sink.reopen, m.store.Open(), func() { sink.Close() }
	}
	m.p = cdc.NewPipeline(cfg)
	m.cancel, m.ended = cancel, make(chan error, 1)
	p, ended := m.p, m.ended
	go func() { ended <- p.Run(ctx) }()
}

// stop ends the process, which may say that it could not drain.
func (m *mourner) stop() error {
	m.cancel()
	err := <-m.ended
	m.close()
	return err
}

// kill ends the process and saves nothing more.
func (m *mourner) kill() {
	if m.cluster != nil {
		m.cluster.setFault(func(int, op) checkpointtest.Fault { return m.dying })
		_ = m.stop() // it was killed
		m.cluster.heal()
		return
	}
	m.store.SetFault(func(op checkpointtest.Op, _ cdc.Position) checkpointtest.Fault {
		if op == checkpointtest.Save {
			return checkpointtest.Lost
		}
		return checkpointtest.None
	})
	_ = m.stop() // it was killed
	m.store.Heal()
	m.topics.set(func() { clear(m.topics.stalled) })
}

// routeOrNot makes a record, with poison for the key "null", which is none.
func routeOrNot(ev *cdc.Event) (*cdc.Record, error) {
	r, err := route(ev)
	if err == nil && string(r.Key) == "null" {
		r.Key = nil
		return r, cdc.Poison(cdc.PoisonKey, "NULL")
	}
	return r, err
}

// settle waits until everything committed is acknowledged and every request is
// answered.
func (m *mourner) settle() {
	m.t.Helper()
	end := m.server.txs[len(m.server.txs)-1].end
	for range 10_000 {
		answered := true
		m.topics.set(func() {
			for i := range m.topics.letters {
				l, err := deadletter.Decode(&m.topics.letters[i])
				if err == nil && l.Kind == cdc.LetterRequest {
					answered = answered && slices.ContainsFunc(m.topics.letters[i:], func(r cdc.Record) bool {
						a, err := deadletter.Decode(&r)
						return err == nil && a.Kind == cdc.LetterAnswer && a.Answer.Request == l.Request.ID
					})
				}
			}
		})
		if answered && m.p.Status().Acknowledged >= end {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	m.t.Fatalf("not settled: %+v", m.p.Status())
}

// compare holds what arrived with what was committed: for each key the first
// occurrences are in commit order, and what did not arrive was discarded.
func (m *mourner) compare(discarded func(key, event string) bool) (duplicates int) {
	m.t.Helper()
	want := map[string][]string{}
	for _, tx := range m.server.txs {
		for n, key := range tx.keys {
			want[key] = append(want[key], tx.event(n))
		}
	}
	for key := range want {
		var first []string
		for _, ev := range m.topics.events[key] {
			if slices.Contains(first, ev) {
				duplicates++
				continue
			}
			first = append(first, ev)
		}
		left := slices.DeleteFunc(want[key], func(ev string) bool { return !slices.Contains(first, ev) && discarded(key, ev) })
		if !slices.Equal(first, left) {
			m.t.Errorf("key %s: published %v, want %v", key, first, left)
		}
	}
	return duplicates
}

func never(string, string) bool { return false }
