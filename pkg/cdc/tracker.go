package cdc

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Tracker turns deliveries that finish in any order into one watermark that
// moves in commit order. The watermark is the end of the longest prefix of
// transactions whose every record has been delivered, so it is always safe to
// resume from it.
//
// Begin, Idle, Tx.Add, Tx.Withdraw and Tx.Commit belong to one goroutine, the
// one that reads the stream. All else may be called from any goroutine.
type Tracker struct {
	max   int64        // events in the queue beyond which Add waits
	held  atomic.Int64 // events in the queue, delivered or not
	moved chan struct{}
	space chan struct{} // receives a value after an entry has left the queue

	mu     sync.Mutex
	queue  []*Tx // queue[head:] in commit order; the first holds the watermark back
	head   int
	limit  int   // length at which the queue is merged
	spare  []*Tx // entries to use again
	mark   LSN
	events LSN // the part of mark that transactions with records have reached
}

const (
	// minLimit is the shortest queue that is worth merging.
	minLimit = 1024

	// maxSpare bounds the entries kept for use again: as many as a sink's transaction,
	// or what is in flight to a busy sink, holds in source transactions of one row.
	// They take 4 MB.
	maxSpare = maxTransactionEvents
)

// NewTracker returns a Tracker whose watermark is start, and which holds at
// most maxEvents events: Add waits beyond.
func NewTracker(start LSN, maxEvents int) *Tracker {
	return &Tracker{
		max: int64(maxEvents), mark: start, limit: minLimit,
		moved: make(chan struct{}, 1), space: make(chan struct{}, 1),
	}
}

// Tx is one transaction in flight. After Commit its owner must not use it.
type Tx struct {
	tracker *Tracker
	pending atomic.Int64 // records not acked, and one more until Commit

	info Transaction // guarded by mu

	// The reader's alone until Commit; then guarded by mu.
	end    LSN // zero until Commit
	events int64
	idle   bool // no transaction, but a position of the idle stream
}

// Begin opens the next transaction in commit order.
func (t *Tracker) Begin(info Transaction) *Tx {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue)-t.head >= t.limit {
		t.merge()
		t.limit = max(minLimit, 2*(len(t.queue)-t.head))
	}
	tx := t.newTx()
	tx.info = info
	tx.pending.Store(1)
	t.push(tx)
	return tx
}

// resume says what the transaction is, once it has come again.
func (tx *Tx) resume(info Transaction) {
	tx.tracker.mu.Lock()
	defer tx.tracker.mu.Unlock()
	tx.info = info
}

// Add registers one record, to be acked once. While the tracker is full it
// waits, until ctx is done. The transaction at the head of the queue never
// waits: nothing but itself could make room.
func (tx *Tx) Add(ctx context.Context) error {
	t := tx.tracker
	for t.held.Load() >= t.max && !t.isHead(tx) {
		select {
		case <-t.space:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	t.held.Add(1)
	tx.events++
	tx.pending.Add(1)
	return nil
}

// Withdraw takes back the last Add, whose record the sink did not take.
func (tx *Tx) Withdraw() {
	tx.tracker.held.Add(-1)
	tx.events--
	tx.pending.Add(-1) // never the last one: the transaction is open
}

// Ack says that one record is durable. A failed record is never acked.
func (tx *Tx) Ack() {
	switch n := tx.pending.Add(-1); {
	case n == 0:
		tx.tracker.advance()
	case n < 0:
		panic("cdc: record acked twice")
	}
}

// Settle says that every record registered so far is durable, acked or not. The
// goroutine that reads the stream must be paused, and Ack must not be used
// beside it. What is durable of the open transaction is not held any more.
func (t *Tracker) Settle() {
	t.mu.Lock()
	for _, tx := range t.queue[t.head:] {
		switch {
		case tx.end != 0:
			tx.pending.Store(0)
		default:
			tx.pending.Store(1) // until Commit
			t.held.Add(-tx.events)
			tx.events = 0
		}
	}
	t.mu.Unlock()
	t.advance()
}

// Commit closes the transaction, whose commit record ends at end.
func (tx *Tx) Commit(end LSN) {
	tx.end = end
	tx.Ack()
}

// Idle says that everything committed before lsn has been handed over.
// Keepalives carry such positions, and they let the slot advance while our
// tables are quiet. In the queue it counts as an empty transaction.
func (t *Tracker) Idle(lsn LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.queue)
	switch {
	case n == t.head && lsn > t.mark:
		t.mark = lsn
		signal(t.moved)
	case n > t.head && t.queue[n-1].idle:
		t.queue[n-1].end = max(t.queue[n-1].end, lsn) // keepalives come in storms
	case n > t.head:
		tx := t.newTx()
		tx.end, tx.idle = lsn, true
		t.push(tx)
	}
}

// Watermark returns the position that is safe to checkpoint, and how far
// transactions with records have moved it; what lies between the two was idle.
func (t *Tracker) Watermark() (mark, events LSN) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mark, t.events
}

// Moved receives a value after the watermark has moved.
func (t *Tracker) Moved() <-chan struct{} { return t.moved }

// Oldest returns the commit time of the oldest transaction that is not wholly
// delivered, or the zero time if there is none.
func (t *Tracker) Oldest() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, tx := range t.queue[t.head:] {
		if !tx.idle {
			return tx.info.CommitTime
		}
	}
	return time.Time{}
}

// Held returns how many events wait for the oldest unacknowledged one,
// themselves acknowledged or not.
func (t *Tracker) Held() int { return int(t.held.Load()) }

// advance pops the delivered prefix.
func (t *Tracker) advance() {
	t.mu.Lock()
	defer t.mu.Unlock()
	popped := false
	for t.head < len(t.queue) && t.queue[t.head].done() {
		tx := t.queue[t.head]
		t.queue[t.head] = nil
		t.head++
		t.mark = max(t.mark, tx.end)
		if tx.events > 0 {
			t.events = max(t.events, t.mark)
		}
		t.held.Add(-tx.events)
		t.recycle(tx)
		popped = true
	}
	if popped {
		signal(t.moved)
		signal(t.space)
	}
}

// merge joins each delivered entry to the one before it, whose delivery then
// stands for both. One stuck record would otherwise let everything behind it
// pile up without end. t.mu must be held.
func (t *Tracker) merge() {
	kept := t.queue[:0]
	for _, tx := range t.queue[t.head:] {
		if n := len(kept); n > 0 && tx.done() && kept[n-1].end != 0 {
			kept[n-1].end = max(kept[n-1].end, tx.end)
			kept[n-1].events += tx.events
			kept[n-1].idle = kept[n-1].idle && tx.idle
			t.recycle(tx)
			continue
		}
		kept = append(kept, tx)
	}
	clear(t.queue[len(kept):])
	t.queue, t.head = kept, 0
}

// push appends tx, moving the queue to the front of its array when more than
// half of that is used up. t.mu must be held.
func (t *Tracker) push(tx *Tx) {
	if len(t.queue) == cap(t.queue) && t.head > len(t.queue)/2 {
		n := copy(t.queue, t.queue[t.head:])
		clear(t.queue[n:])
		t.queue, t.head = t.queue[:n], 0
	}
	t.queue = append(t.queue, tx)
}

func (t *Tracker) newTx() *Tx {
	if n := len(t.spare); n > 0 {
		tx := t.spare[n-1]
		t.spare = t.spare[:n-1]
		return tx
	}
	return &Tx{tracker: t}
}

// recycle keeps tx for use again. Nobody holds it: all its records are acked.
func (t *Tracker) recycle(tx *Tx) {
	if len(t.spare) < maxSpare {
		tx.info, tx.end, tx.events, tx.idle = Transaction{}, 0, 0, false
		t.spare = append(t.spare, tx)
	}
}

func (t *Tracker) isHead(tx *Tx) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.queue[t.head] == tx
}

// done reports whether all of tx has been delivered.
func (tx *Tx) done() bool { return tx.pending.Load() == 0 }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // a signal is already waiting
	}
}
