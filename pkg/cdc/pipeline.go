package cdc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walpost/walpost/pkg/circuit"
)

// Config holds a pipeline's settings. Source, Sink, Store and Route are
// required.
type Config struct {
	Source Source
	Sink   Sink
	Store  Store

	// Route makes a record of an event. It copies what it keeps, and is
	// called from one goroutine. A [PoisonError] says that the event can
	// never be published; with it comes a record of what could be read. It
	// ends the pipeline, unless there are DeadLetters. [ErrSkip], with no record,
	// passes over the event.
	Route func(*Event) (*Record, error)

	// Transactional says that Sink and Store are transactional, as [Sink] has
	// it: each event is then seen exactly once. CheckpointInterval means
	// nothing then.
	Transactional bool

	// DeadLetters takes events that can never be published, and those behind
	// them. Nil ends the pipeline at the first.
	DeadLetters *DeadLetters

	// Check, if not nil, is asked at each start from the checkpoint, once that is
	// owned and before anything is handed over. It may wait for as long as it must,
	// until ctx is done. An error ends the attempt.
	Check func(context.Context) error

	// Standby, if not nil, reports whether Source waits while another process owns the
	// slot, and when it last did. It is called from any goroutine.
	Standby func() (now bool, last time.Time)

	// Reopen makes a sink that has given up take records again, after done was
	// called for all that it had. It is needed for DeadLetters of records that
	// are refused after they were handed over; without it they end the
	// pipeline. A transactional sink does without: Acquire does the same.
	Reopen func(context.Context) error

	// DrainTimeout bounds the wait for records in flight when the pipeline
	// stops. Defaults to 10s.
	DrainTimeout time.Duration

	// CheckpointInterval is the least time between two saves. Defaults to 1s.
	CheckpointInterval time.Duration

	// MaxUnconfirmedEvents bounds the events that wait, acknowledged or not,
	// behind the oldest unacknowledged one. Defaults to 1,000,000.
	MaxUnconfirmedEvents int

	// RetryInitial and RetryMax bound the wait before a broken stream is
	// opened again: it doubles from one to the other, with jitter. While the
	// server takes connections it is at most 3 s, whatever else fails.
	// Default to 100ms and 30s.
	RetryInitial, RetryMax time.Duration

	// Logger defaults to slog's default.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 10*time.Second)
	c.CheckpointInterval = cmp.Or(c.CheckpointInterval, time.Second)
	c.MaxUnconfirmedEvents = cmp.Or(c.MaxUnconfirmedEvents, 1_000_000)
	c.RetryInitial = cmp.Or(c.RetryInitial, 100*time.Millisecond)
	c.RetryMax = max(c.RetryInitial, cmp.Or(c.RetryMax, 30*time.Second))
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

// Pipeline moves events from a source to a sink.
type Pipeline struct {
	cfg    Config
	failed chan error // the first event that could not be published; capacity 1
	done   func(*Record, error)

	session session  // owned by Run's goroutine
	loaded  Position // what the session's start was judged by; owned by Run's goroutine

	circuit *circuit.Breaker // to the source and the store
	repeats circuit.Repeats
	down    time.Time // since when nothing streams, zero if it does; owned by Run's goroutine, and while a stream runs by prove
	opened  time.Time // when the last stream was; owned by Run's goroutine
	brief   bool      // it ended soon; owned by Run's goroutine
	broke   error     // why it did, if the one before had ended soon too; owned by Run's goroutine

	txn transaction // of a transactional sink

	handing  turn // held while something is handed over; guards the rest of this block
	stopping bool // nothing more is taken
	rest     rest
	tx       *Tx    // the open transaction
	cut      LSN    // its commit record
	ordinal  int64  // rows of it that were received in this stream
	handed   int64  // rows of it that were handed over, in any stream or process
	lastID   []byte // of the last of them
	spareID  []byte // memory for the next one's
	resumed  bool   // tx was opened in an earlier stream, and has to come again
	differs  bool   // it came again with other rows: what was handed over of it means nothing
	letters  letters
	open     Stream // that hands over; set before it does

	received atomic.Uint64 // LSN: everything committed before it has been handed over
	acked    atomic.Int64  // when a record was last acknowledged, as Stamp
	gaveUp   atomic.Bool   // the sink has given up some record

	saving      sync.Mutex   // held during a save
	savingSince atomic.Int64 // when it began, as Stamp; zero if none is under way
	saved       Position     // guarded by saving

	mu      sync.Mutex
	status  Status   // guarded by mu
	durable Position // guarded by mu; saved, for who must not wait for a save
	acks    *Tracker // guarded by mu; set by Run's goroutine

	condemned map[condemned]verdict // guarded by mu; events that are to become dead letters
}

// turn is a mutex for waits that may be long: it blocks as a channel does, so that
// virtual time passes meanwhile. Its capacity must be 1.
type turn chan struct{}

// Lock waits for the turn.
func (t turn) Lock() { t <- struct{}{} }

// Unlock gives it to somebody else.
func (t turn) Unlock() { <-t }

// session is what a pipeline must still own to go on from its own memory.
type session struct {
	epoch    int64
	systemID uint64
	timeline uint32
}

const (
	// saveTimeout bounds a save, and lastSaveTimeout the one that comes after
	// the drain timeout.
	saveTimeout     = 10 * time.Second
	lastSaveTimeout = 2 * time.Second

	// overtakenTimeout bounds how long a stop waits for another process to say that it has
	// taken over, and overtakenInterval is the time between two looks.
	overtakenTimeout  = 3 * time.Second
	overtakenInterval = 100 * time.Millisecond

	// acquireTimeout bounds a load and an acquire: a store that does not answer
	// is asked again, on another connection.
	acquireTimeout = time.Minute

	// minIdleAdvance is how far an idle position must be ahead of the saved
	// one to be saved: the save is WAL itself, and would chase its own tail.
	minIdleAdvance = 1 << 20
)

// NewPipeline returns a pipeline, to be run once with Run.
func NewPipeline(cfg Config) *Pipeline {
	p := &Pipeline{
		cfg: cfg.withDefaults(), failed: make(chan error, 1), handing: make(turn, 1), rest: newRest(), txn: newTransaction(),
		condemned: map[condemned]verdict{},
	}
	p.done = p.delivered
	p.letters.freed = make(chan struct{}, 1)
	p.circuit = circuit.New(p.cfg.RetryInitial, p.cfg.RetryMax)
	p.status = Status{State: Connecting, CaughtUp: time.Now(), Failed: noReasons(), DeadLetters: noReasons()}
	return p
}

// Run streams until ctx is done, and then returns nil, or until something
// fails that trying again cannot mend: a [RefusedError], a [PoisonError] or
// whatever made the sink give up. A broken stream and an unreachable store are
// tried again without end. Every record that the sink acknowledged before Run
// returns is covered by the checkpoint, within DrainTimeout; if that could not
// be done, Run says so in its error.
func (p *Pipeline) Run(ctx context.Context) error {
	defer p.setState(Stopped, nil)
	for {
		before := p.received.Load()
		p.circuit.Try()
		err := p.round(ctx)
		var drained *drainedError
		switch {
		case errors.As(err, &drained) && p.recover(ctx, drained.cause):
			continue
		case errors.As(err, &drained):
			return drained.cause
		case ctx.Err() != nil || isFinal(err):
			return errors.Join(finalCause(ctx, err), p.drain(ctx, nil))
		}
		if p.received.Load() != before || p.retracts() { // a row that was refused is dealt with next
			p.circuit.Hurry()
		}
		delay := p.ended(err)
		if p.txn.spoilt.Load() != nil {
			p.setTracker(nil) // only the store knows where to go on
		}
		if p.wait(ctx, delay) != nil {
			return p.drain(ctx, nil)
		}
	}
}

// isFinal reports whether trying again cannot mend err.
func isFinal(err error) bool {
	var refused *RefusedError
	var poison *PoisonError
	return errors.As(err, &refused) || errors.As(err, &poison)
}

// finalCause is err without what ctx's own end has caused.
func finalCause(ctx context.Context, err error) error {
	if ctx.Err() != nil && !isFinal(err) {
		return nil
	}
	return err
}

// save makes the watermark durable and only then confirms it to the stream:
// delivered, saved, confirmed, in this order and nowhere else. A failed save
// ends the stream: the store may or may not hold the new position, and only a
// fresh Load can tell.
func (p *Pipeline) save(ctx context.Context, s Stream) error {
	p.saving.Lock()
	defer p.saving.Unlock()
	mark, events := p.acks.Watermark()
	if mark <= p.saved.LSN || (events <= p.saved.LSN && mark-p.saved.LSN < minIdleAdvance) {
		return nil
	}
	return p.saveAt(ctx, s, mark, Partial{})
}

// saveLast is save at the end: it also saves a small advance, and how far the open
// transaction was delivered. A save that failed is tried once more: the store's
// connection may have died long before, with what interrupted the stream.
func (p *Pipeline) saveLast(ctx context.Context, s Stream, partial Partial) error {
	p.saving.Lock()
	defer p.saving.Unlock()
	mark, _ := p.acks.Watermark()
	if mark < p.saved.LSN || mark == p.saved.LSN && partial == p.saved.Partial {
		return nil
	}
	err := p.saveAt(ctx, s, mark, partial)
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrFenced) {
		err = p.saveAt(ctx, s, mark, partial)
	}
	return err
}

// saveAt saves and confirms. With a transactional store the save is also what
// delivers the records: delivered and saved at once, then confirmed. p.saving must
// be held.
func (p *Pipeline) saveAt(ctx context.Context, s Stream, mark LSN, partial Partial) error {
	pos := Position{SystemID: p.session.systemID, Timeline: p.session.timeline, LSN: mark, Partial: partial}
	p.savingSince.Store(Stamp(time.Now()))
	defer p.savingSince.Store(0)
	if err := p.cfg.Store.Save(ctx, pos); err != nil {
		return fmt.Errorf("save checkpoint %s: %w", mark, err)
	}
	if p.cfg.Transactional {
		p.acked.Store(Stamp(time.Now()))
		p.acks.Settle()
	}
	p.saved = pos
	p.setCheckpoint(pos)
	if s != nil {
		s.Confirm(mark)
	}
	return nil
}

// drain waits for the records in flight and saves the checkpoint once more,
// also when not all of them arrived: what did is not sent again. The stream may
// be nil, if there is none any more.
func (p *Pipeline) drain(ctx context.Context, s Stream) error {
	if p.acks == nil {
		return nil
	}
	p.setState(Stopping, nil)
	partial := p.stopHanding()
	if p.cfg.Transactional {
		return p.commitLast(ctx, s)
	}
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.DrainTimeout)
	err := p.cfg.Sink.Flush(dctx)
	cancel()
	if err != nil || p.gaveUp.Load() {
		partial = Partial{} // some of it was not delivered
	}
	if err != nil {
		err = fmt.Errorf("flush sink: %w; what is unacknowledged will be published again", err)
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastSaveTimeout)
	defer cancel()
	return errors.Join(err, p.saveLast(sctx, s, partial))
}

// stopHanding takes nothing more from the stream, and returns how far the open
// transaction was handed over. A call that is under way ends with the context
// that the stream gave it.
func (p *Pipeline) stopHanding() Partial {
	p.handing.Lock()
	defer p.handing.Unlock()
	p.stopping = true
	return p.partial()
}

// partial returns how far the open transaction was handed over. p.handing must be
// held.
func (p *Pipeline) partial() Partial {
	if p.tx == nil || p.handed == 0 {
		return Partial{}
	}
	return Partial{CommitLSN: p.cut, Rows: p.handed, LastID: string(p.lastID)}
}

// delivered is called by the sink for every record.
func (p *Pipeline) delivered(r *Record, err error) {
	if p.cfg.Transactional {
		p.gathered(r, err)
		return
	}
	if err != nil {
		err = p.condemn(r, fmt.Errorf("produce: %w", describe(err, r, "")))
	}
	if r.batch != nil {
		r.batch.done(err)
	}
	if err == nil {
		p.acked.Store(Stamp(time.Now()))
		if r.tx != nil {
			r.tx.Ack()
		}
	} else {
		p.gaveUp.Store(true)
		p.fail(err)
	}
	r.Free()
}

// fail ends the pipeline. Only the first failure matters.
func (p *Pipeline) fail(err error) {
	select {
	case p.failed <- err:
	default:
	}
}

// describe names the record in a PoisonError that came from the sink: in a copy, since
// the sink may still look at it.
func describe(err error, r *Record, table string) error {
	var poison *PoisonError
	if !errors.As(err, &poison) || poison.CommitLSN != 0 {
		return err // none, or named already
	}
	named := *poison
	named.ID, named.Topic, named.Table = cmp.Or(named.ID, string(r.ID)), cmp.Or(named.Topic, r.Topic), cmp.Or(named.Table, table)
	named.CommitLSN, named.Ordinal = r.CommitLSN, r.Ordinal
	return &named
}
