package cdc

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

const (
	// quiet is how long nothing must have been handed over for a transaction
	// to be committed at once.
	quiet = 2 * time.Millisecond

	// A transaction is committed at the latest when it is as old as the last
	// commit took, within minWindow and maxWindow, or backlogFactor times that
	// if its first event was committed longer than backlogAge ago: the reader
	// pauses for the commit, which costs a reader that keeps up nothing, and one
	// that works off a backlog a fixed share of its time.
	backlogFactor = 6
	backlogAge    = 100 * time.Millisecond
	minWindow     = 4 * time.Millisecond
	maxWindow     = 100 * time.Millisecond

	// maxTransactionBytes and maxTransactionEvents are where a transaction is
	// committed whatever its age.
	maxTransactionBytes  = 16 << 20
	maxTransactionEvents = 50_000

	// commitTimeout bounds a commit. An outage that is longer spoils the
	// transaction, which the cluster aborts on its own at about that time.
	commitTimeout = time.Minute
)

// transaction is what a pipeline knows about the open transaction of a
// transactional sink. With another sink nobody asks it.
type transaction struct {
	dirty  chan struct{}         // receives a value when there is something to commit
	full   chan struct{}         // receives a value when it must be committed now
	spoilt atomic.Pointer[error] // why it cannot be committed: only the store knows where to go on

	behind atomic.Bool   // its first event had been committed for long
	taken  atomic.Int64  // what was handed over since the start, to see whether it is quiet
	events atomic.Int64  // in the transaction
	bytes  atomic.Int64  // in the transaction
	base   atomic.Uint64 // LSN up to which it was committed last

	last time.Duration // what the last commit took; owned by commitAll
}

func newTransaction() transaction {
	return transaction{
		dirty: make(chan struct{}, 1), full: make(chan struct{}, 1),
	}
}

// took counts a record that was handed over, of an event committed at a time.
func (x *transaction) took(size int, committed time.Time) {
	x.taken.Add(1)
	events, bytes := x.events.Add(1), x.bytes.Add(int64(size))
	if events == 1 {
		x.behind.Store(time.Since(committed) > backlogAge)
		signal(x.dirty)
	}
	if events >= maxTransactionEvents || bytes >= maxTransactionBytes {
		signal(x.full)
	}
}

// ended notes the end of a source transaction with records, which may have been
// committed to the last one before.
func (x *transaction) ended() { signal(x.dirty) }

// window returns how old the transaction may become.
func (x *transaction) window() time.Duration {
	d := x.last
	if x.behind.Load() {
		d *= backlogFactor
	}
	return min(max(d, minWindow), maxWindow)
}

// moved notes a position without records that has become worth a commit.
func (x *transaction) moved(lsn LSN) {
	if base := LSN(x.base.Load()); lsn > base && lsn-base >= minIdleAdvance {
		signal(x.dirty)
	}
}

// reset says that all is committed up to a position. The reader is paused.
func (x *transaction) reset(lsn LSN) {
	x.events.Store(0)
	x.bytes.Store(0)
	x.base.Store(uint64(lsn))
	for _, c := range []chan struct{}{x.dirty, x.full} {
		select {
		case <-c:
		default:
		}
	}
}

// gathered is delivered for a transactional sink: the record is in the open
// transaction, and is acknowledged with it, or spoils it.
func (p *Pipeline) gathered(r *Record, err error) {
	if err != nil {
		err = p.spoil(p.condemn(r, fmt.Errorf("produce: %w", describe(err, r, ""))))
	}
	if r.batch != nil {
		r.batch.done(err)
	}
	r.Free()
}

// spoil says that the open transaction cannot be committed, and why. What trying
// again cannot mend ends the pipeline. Anything else ends the round: with the next
// record, which the sink refuses, or with the commit.
func (p *Pipeline) spoil(err error) error {
	p.txn.spoilt.CompareAndSwap(nil, &err)
	if isFinal(err) {
		p.fail(err)
	}
	return err
}

// beginTransactional checks that the stream starts where the store stands now that
// it is acquired: until then a predecessor may have moved it.
func (p *Pipeline) beginTransactional(acquired, start Position) error {
	switch {
	case acquired != p.loaded:
		return fmt.Errorf("checkpoint moved from %s to %s while it was taken over", p.loaded.LSN, acquired.LSN)
	case !acquired.IsZero() && acquired.LSN != start.LSN:
		return Refuse("find out what the consumers have seen, then start anew with another slot",
			"the stream would start at %s, but what is published ends at %s", start.LSN, acquired.LSN)
	}
	// All that was handed over before has been answered.
	p.txn.spoilt.Store(nil)
	p.txn.reset(start.LSN)
	return nil
}

// newTracker returns a tracker from start on. In a transactional pipeline it must
// not wait: only a commit would make room, and that waits for the reader.
func (p *Pipeline) newTracker(start LSN) *Tracker {
	if p.cfg.Transactional {
		return NewTracker(start, math.MaxInt)
	}
	return NewTracker(start, p.cfg.MaxUnconfirmedEvents)
}

// commitAll commits as there is something to commit. It sleeps while there is not.
func (p *Pipeline) commitAll(ctx context.Context, s Stream) error {
	s.Confirm(p.savedLSN())
	if p.txn.events.Load() > 0 {
		signal(p.txn.dirty) // left from an earlier stream
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.txn.dirty:
		}
		if !p.gather(ctx) {
			return nil
		}
		if err := p.commit(ctx, s); err != nil {
			return err
		}
	}
}

// commitContext outlives ctx by the drain timeout: a commit that was cut off would
// leave open whether it was done.
func (p *Pipeline) commitContext(ctx context.Context) (context.Context, context.CancelFunc) {
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	stop := context.AfterFunc(ctx, func() {
		t := time.NewTimer(p.cfg.DrainTimeout)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-cctx.Done():
		}
	})
	return cctx, func() { stop(); cancel() }
}

// gather waits until the open transaction is full or old, or the reader is quiet, and
// reports whether that is so before ctx is done.
func (p *Pipeline) gather(ctx context.Context) bool {
	deadline := time.Now().Add(p.txn.window())
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for last := p.txn.taken.Load(); ; {
		select {
		case <-ctx.Done():
			return false
		case <-p.txn.full:
			return true
		case now := <-timer.C:
			n := p.txn.taken.Load()
			if n == last || !now.Before(deadline) {
				return true
			}
			last = n
			timer.Reset(min(quiet, deadline.Sub(now)))
		}
	}
}

// commit pauses the reader and commits what it has handed over.
func (p *Pipeline) commit(ctx context.Context, s Stream) error {
	p.handing.Lock()
	defer p.handing.Unlock()
	begun := time.Now()
	err := p.commitNow(ctx, s) // whose time begins now: the reader may have waited for long
	p.txn.last = time.Since(begun)
	return err
}

// commitHanded makes all that was handed over durable with the position that
// covers exactly that: what has committed before received, and of the open
// transaction the first rows. p.handing must be held.
func (p *Pipeline) commitHanded(ctx context.Context, s Stream) error {
	if why := p.txn.spoilt.Load(); why != nil {
		return *why
	}
	if err := p.noteProgress(ctx); err != nil {
		return p.spoil(err)
	}
	if err := p.cfg.Sink.Flush(ctx); err != nil {
		return p.spoil(fmt.Errorf("flush sink: %w", err))
	}
	if why := p.txn.spoilt.Load(); why != nil {
		return *why
	}
	p.saving.Lock()
	defer p.saving.Unlock()
	mark, partial := LSN(p.received.Load()), p.partial()
	if p.txn.events.Load() == 0 && mark == p.saved.LSN && partial == p.saved.Partial {
		return nil
	}
	if err := p.saveAt(ctx, s, mark, partial); err != nil {
		return p.spoil(err)
	}
	p.txn.reset(mark)
	return nil
}

// commitFirst commits what was handed over before r, of an event, for which the sink will
// wait: nobody knows for how long, and the cluster aborts what is open for long. p.handing
// must be held. Letters are not divided from what they are about.
func (p *Pipeline) commitFirst(ctx context.Context, r *Record) error {
	if r.tx == nil || p.txn.events.Load() == 0 {
		return nil
	}
	r.tx.Withdraw()
	defer func() { _ = r.tx.Add(ctx) }() // which never waits, see newTracker
	return p.commitNow(ctx, p.open)
}

// commitLast is the commit at the end, within the drain timeout. The stream may be
// nil, if there is none any more. Nothing is handed over beside it.
func (p *Pipeline) commitLast(ctx context.Context, s Stream) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.DrainTimeout)
	defer cancel()
	p.handing.Lock()
	defer p.handing.Unlock()
	if why := p.txn.spoilt.Load(); why != nil && isFinal(*why) {
		return nil // it has ended the pipeline, which reports it
	}
	return p.commitHanded(ctx, s)
}
