package sinktest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/walpost/walpost/pkg/cdc"
)

// Outcome is what a [Memory] does with a record. The zero Outcome keeps it and
// says so.
type Outcome struct {
	// Lost does not keep the record.
	Lost bool

	// Err is reported through done. After it the Memory takes no more.
	Err error

	// Silent never calls done, until Close does.
	Silent bool
}

// MemoryConfig holds a Memory's settings.
type MemoryConfig struct {
	// Partitions is how many each topic has. Defaults to 4.
	Partitions int

	// MaxInFlight is how many records may be in flight before Produce
	// waits. Defaults to 1000.
	MaxInFlight int

	// MaxBytes is the largest key and value together. Defaults to 1 MiB.
	MaxBytes int

	// Outcome decides about a record when its turn has come. It may keep
	// nothing of the record. Nil means the zero Outcome for every record.
	Outcome func(*cdc.Record) Outcome
}

// Memory is a [cdc.Sink] that keeps records in memory. It panics when its
// caller breaks the contract.
type Memory struct {
	cfg       MemoryConfig
	producing atomic.Bool
	space     chan struct{} // receives a value when a record is done
	failed    chan struct{} // closed when a record was given up

	mu      sync.Mutex // guards all below
	cause   error
	outage  bool
	closed  bool
	running bool                                     // a goroutine works on the queue
	silent  []*cdc.Record                            // worked on, and never answered
	queue   []item                                   // in the order of Produce
	owned   map[*cdc.Record]func(*cdc.Record, error) // until done is called
	flying  int                                      // until done has returned
	idle    chan struct{}                            // closed when none is in flight; nil while nobody waits
	kept    map[string][][]cdc.Record
}

type item struct {
	r         *cdc.Record
	partition int
}

// NewMemory returns an empty Memory.
func NewMemory(cfg MemoryConfig) *Memory {
	cfg.Partitions = cmp.Or(cfg.Partitions, 4)
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, 1000)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, 1<<20)
	if cfg.Outcome == nil {
		cfg.Outcome = func(*cdc.Record) Outcome { return Outcome{} }
	}
	return &Memory{
		cfg: cfg, space: make(chan struct{}, 1), failed: make(chan struct{}),
		owned: make(map[*cdc.Record]func(*cdc.Record, error)), kept: make(map[string][][]cdc.Record),
	}
}

// Produce implements [cdc.Sink].
func (m *Memory) Produce(ctx context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	if !m.producing.CompareAndSwap(false, true) {
		panic("sinktest: Produce was called from two goroutines at a time")
	}
	defer m.producing.Store(false)
	if done == nil {
		panic("sinktest: Produce without done")
	}
	partition, err := m.place(r)
	if err != nil {
		return err
	}
	for {
		if ok, err := m.take(r, partition, done); ok || err != nil {
			return err
		}
		select {
		case <-m.space:
		case <-m.failed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// place returns r's partition, or why it can be in none.
func (m *Memory) place(r *cdc.Record) (int, error) {
	switch size := len(r.Key) + len(r.Value); {
	case size > m.cfg.MaxBytes:
		return 0, cdc.Poison(cdc.PoisonOversize, "record takes %d bytes of at most %d", size, m.cfg.MaxBytes)
	case r.Topic == "":
		return 0, cdc.Poison(cdc.PoisonTopic, "record without a topic")
	case int(r.Partition) >= m.cfg.Partitions:
		return 0, cdc.Poison(cdc.PoisonRow, "partition %d does not exist: there are %d", r.Partition, m.cfg.Partitions)
	case r.Partition >= 0:
		return int(r.Partition), nil
	}
	return Partition(r.Key, m.cfg.Partitions), nil
}

func (m *Memory) take(r *cdc.Record, partition int, done func(*cdc.Record, error)) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return false, errClosed
	case m.cause != nil:
		return false, fmt.Errorf("sink has given up: %v", m.cause) //nolint:errorlint // the cause belongs to another record
	case m.owned[r] != nil:
		panic("sinktest: record was handed over while it was the sink's")
	case m.flying >= m.cfg.MaxInFlight:
		return false, nil
	}
	m.owned[r] = done
	m.flying++
	m.queue = append(m.queue, item{r, partition})
	m.wake()
	return true, nil
}

// wake starts the work on the queue, unless it goes on already. m.mu must be
// held.
func (m *Memory) wake() {
	if !m.running && !m.outage && len(m.queue) > 0 {
		m.running = true
		go m.work()
	}
}

// work delivers the queue and ends when it is empty.
func (m *Memory) work() {
	for {
		it, ok := m.next()
		if !ok {
			return
		}
		o := m.cfg.Outcome(it.r)
		if !o.Lost {
			m.keep(it)
		}
		if o.Silent {
			m.mute(it.r)
		} else {
			m.answer(it.r, o.Err)
		}
	}
}

func (m *Memory) mute(r *cdc.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.silent = append(m.silent, r)
}

func (m *Memory) next() (item, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.outage || m.closed || len(m.queue) == 0 {
		m.running = false
		return item{}, false
	}
	it := m.queue[0]
	m.queue = m.queue[1:]
	return it, true
}

func (m *Memory) keep(it item) {
	c := *it.r
	c.Key, c.Value, c.ID, c.Buf = bytes.Clone(c.Key), bytes.Clone(c.Value), bytes.Clone(c.ID), nil
	c.Headers = slices.Clone(c.Headers)
	for i := range c.Headers {
		c.Headers[i].Value = bytes.Clone(c.Headers[i].Value)
	}
	c.Partition = int32(it.partition)

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept[c.Topic] == nil {
		m.kept[c.Topic] = make([][]cdc.Record, m.cfg.Partitions)
	}
	m.kept[c.Topic][it.partition] = append(m.kept[c.Topic][it.partition], c)
}

// answer calls done. After an error, what waits is given up too.
func (m *Memory) answer(r *cdc.Record, err error) {
	m.mu.Lock()
	var rest []item
	if err != nil {
		if m.cause == nil {
			m.cause = err
			defer close(m.failed)
		}
		rest, m.queue = m.queue, nil
	}
	done := m.owned[r]
	delete(m.owned, r) // done may hand r over again, as another record
	m.mu.Unlock()

	done(r, err)
	m.landed()
	for _, it := range rest {
		m.answer(it.r, errors.New("given up after another record"))
	}
}

func (m *Memory) landed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flying--
	if m.flying == 0 && m.idle != nil {
		close(m.idle)
		m.idle = nil
	}
	select {
	case m.space <- struct{}{}:
	default: // a signal is already waiting
	}
}

// Flush implements [cdc.Sink].
func (m *Memory) Flush(ctx context.Context) error {
	for {
		idle := m.whenIdle()
		if idle == nil {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m *Memory) whenIdle() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flying == 0 {
		return nil
	}
	if m.idle == nil {
		m.idle = make(chan struct{})
	}
	return m.idle
}

// Outage makes the Memory hold all records until it is called with false.
func (m *Memory) Outage(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outage = on
	m.wake()
}

var errClosed = errors.New("sink is closed")

// Close gives up what is in flight. It must not run beside Produce.
func (m *Memory) Close() {
	m.mu.Lock()
	m.closed = true
	left := m.silent
	for _, it := range m.queue {
		left = append(left, it.r)
	}
	m.queue, m.silent = nil, nil
	m.mu.Unlock()
	for _, r := range left {
		m.answer(r, errClosed)
	}
}

// Records returns copies of what was kept of a topic, by partition, in order.
func (m *Memory) Records(topic string) [][]cdc.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([][]cdc.Record, m.cfg.Partitions)
	for i, p := range m.kept[topic] {
		out[i] = slices.Clone(p)
	}
	return out
}
