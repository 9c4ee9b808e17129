package cdc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

// letters is the pipeline's hold on the dead-letter topic.
type letters struct {
	opened Position // the server and its end of WAL, when the stream was opened; owned by Run's goroutine
	lost   bool     // another instance has claimed the log, or it is another; owned by Run's goroutine between rounds

	lots  *Lots         // as of all letters handed over; guarded by handing; nil without dead letters
	owner string        // the name that this pipeline writes under; guarded by handing
	job   *job          // the first of asked, if it was begun; guarded by handing
	freed chan struct{} // receives a value when some lot was settled

	// Owned by claim before the stream runs, and by attend while it does.
	next     int64     // offset up to which the log was read
	asked    []*Letter // requests to carry out
	answered string    // the last one that was, until its answer was read
	kept     bool      // the log cannot be trimmed
	trimTo   int64     // offset before which it is to be, once the stream runs; -1 for not
}

// errClaimed ends a stream when another instance has claimed the log.
var errClaimed = errors.New("another process writes dead letters for this slot")

// slowClaim is how long a claim takes until the status says what is waited for.
const slowClaim = 3 * time.Second

// claim makes this instance the log's only writer, and reads the log up to where
// that is so: what an earlier one writes after it is void. A fresh start takes all
// it knows from the log. It waits for as long as Kafka is away.
//
// In a transactional pipeline it is the epoch that makes it so, also for a stream
// that goes on from memory. The claim says the same to who reads the log, and is
// committed before that is read.
func (p *Pipeline) claim(ctx context.Context, fresh bool) error {
	d := p.cfg.DeadLetters
	if d == nil || p.cfg.Transactional && !fresh {
		return nil
	}
	defer time.AfterFunc(slowClaim, func() {
		p.explain(fmt.Errorf("reading dead-letter topic %s, which is needed to start", d.Topic))
	}).Stop()
	p.handing.Lock()
	defer p.handing.Unlock()
	ls := &p.letters
	ls.owner = rand.Text()
	if fresh {
		ls.lots, ls.next, ls.asked, ls.answered, ls.job = NewLots(d.Slot), 0, nil, "", nil
	}
	if err := p.writeClaim(ctx); err != nil {
		return fmt.Errorf("claim dead-letter topic %s: %w", d.Topic, err)
	}
	for claimed := false; !claimed; {
		var err error
		if claimed, err = p.readClaim(ctx, fresh); err != nil {
			return fmt.Errorf("read dead-letter topic %s: %w", d.Topic, err)
		}
	}
	ls.answered = "" // the claim lies behind it
	if fresh {
		ls.trimTo = p.trimmable(ls.lots)
		ls.asked, ls.lots.asked, ls.lots.alone = ls.lots.asked, nil, nil
		if len(ls.asked) == 0 {
			p.forgetRetried()
		}
		p.cfg.Logger.Info("dead letters are read", "topic", d.Topic, "open", ls.lots.dead, "parked_keys", len(ls.lots.keyed), "parked_events", ls.lots.open-ls.lots.dead, "requests", len(ls.asked))
	}
	p.countParked()
	return nil
}

// writeClaim hands the claim over, in a transaction of its own if there are some, and
// waits until it is durable. It fails with the sink, which may give up a record from
// before.
func (p *Pipeline) writeClaim(ctx context.Context) error {
	var b batch
	if err := p.write(ctx, &Letter{Kind: LetterClaim}, &b); err != nil {
		return err
	}
	if !p.cfg.Transactional {
		return b.wait(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	err := p.cfg.Sink.Flush(ctx)
	if err == nil {
		err = p.cfg.Store.Save(ctx, p.saved)
	}
	if why := p.txn.spoilt.Load(); err != nil && why != nil {
		err = *why
	}
	p.txn.reset(p.saved.LSN)
	return err
}

// readClaim reads on, and reports whether it has come to the pipeline's claim.
func (p *Pipeline) readClaim(ctx context.Context, fresh bool) (bool, error) {
	ls := &p.letters
	found, err := p.fetch(ctx, ls.next)
	if err != nil {
		return false, err
	}
	for _, l := range found {
		ls.next = l.Offset + 1
		switch {
		case fresh:
			ls.lots.Apply(l)
		case l.Slot != p.cfg.DeadLetters.Slot:
		case l.Kind == LetterRequest:
			ls.asked = append(ls.asked, l)
		case l.Kind == LetterClaim && l.Owner != ls.owner:
			ls.lost = true
			return false, errClaimed
		}
		if l.Kind == LetterClaim && l.Owner == ls.owner {
			return true, nil
		}
	}
	return false, nil
}

// fetch reads letters from the log, and passes over records that are none.
func (p *Pipeline) fetch(ctx context.Context, from int64) ([]*Letter, error) {
	logged, err := p.cfg.DeadLetters.Log.Fetch(ctx, from)
	if errors.Is(err, ErrAnotherLog) { // of which nothing in memory holds
		p.letters.lost = true
		p.cfg.Logger.Error("the dead-letter topic was deleted and created again: events that were dead or parked there are lost, and their keys are free", "topic", p.cfg.DeadLetters.Topic,
			"hint", "write the lost rows again, if the topic was not empty")
	}
	if err != nil {
		return nil, err
	}
	found := make([]*Letter, 0, len(logged))
	for _, rec := range logged {
		l, err := p.cfg.DeadLetters.Decode(rec.Record)
		if err != nil {
			p.cfg.Logger.Warn("passing over a record in the dead-letter topic that is none of walpost's", "offset", rec.Offset, "error", err)
			l = &Letter{}
		}
		l.Offset = rec.Offset
		found = append(found, l)
	}
	return found, nil
}

// trimmable returns the offset before which nothing in the log is needed by lots, which
// are as of some moment in it, or -1 if it is to be kept, as one that others write to:
// nobody knows what they need.
func (p *Pipeline) trimmable(lots *Lots) int64 {
	ls := &p.letters
	if lots.shared && !ls.kept {
		ls.kept = true
		p.cfg.Logger.Warn("the dead-letter topic is not trimmed, since not all records in it are this slot's: a start will read all of it", "topic", p.cfg.DeadLetters.Topic,
			"hint", "give each slot a delivery.dead_letter_topic of its own")
	}
	if ls.kept {
		return -1
	}
	return lots.neededFrom()
}

// trim lets go of the log before an offset, if that is not negative.
func (p *Pipeline) trim(ctx context.Context, before int64) {
	if before < 0 {
		return
	}
	if err := p.cfg.DeadLetters.Log.Trim(ctx, before); err != nil && ctx.Err() == nil {
		p.letters.kept = true // do not ask again and again
		p.cfg.Logger.Warn("the dead-letter topic is not trimmed: a start will read all of it", "topic", p.cfg.DeadLetters.Topic, "error", err,
			"hint", "allow the operation Delete on the topic")
	}
}

// full reports whether there are as many letters of a kind as may be.
func (h *handler) full(kind LetterKind) bool {
	lots, limit := h.letters.lots, h.cfg.DeadLetters.limit(kind)
	n := lots.dead
	if kind == LetterParked {
		n = lots.open - lots.dead
	}
	return limit > 0 && n >= limit
}

// limit returns how many letters of a kind there may be.
func (d *DeadLetters) limit(kind LetterKind) int {
	if kind == LetterParked {
		return d.MaxParked
	}
	return d.Max
}

// awaitRoom waits, without the lock on handing, until some lot is settled or ctx is
// done, and says so in the status. Before that it saves how far the open transaction
// was handed over: only what the checkpoint covers can be settled, and its end may be
// what waits for room.
func (h *handler) awaitRoom(ctx context.Context, kind LetterKind) error {
	p := (*Pipeline)(h)
	if p.setHeld(true) {
		p.cfg.Logger.Error("holding the stream: as many events are dead, or parked behind dead ones, as may be", "kind", string(kind), "limit", h.cfg.DeadLetters.limit(kind),
			"hint", "mend what makes rows dead, see walpost dlq list, then retry or discard them; or raise delivery.max_dead_letters or delivery.max_parked_events")
	}
	if err := p.savePartial(ctx); err != nil {
		p.setHeld(false) // the row may find room when it comes again
		return err
	}
	h.handing.Unlock()
	select {
	case <-h.letters.freed:
	case <-ctx.Done():
	}
	h.handing.Lock()
	if h.stopping {
		<-ctx.Done() // the stream was stopped before
	}
	if ctx.Err() != nil {
		p.setHeld(false)
	}
	return context.Cause(ctx)
}

// savePartial saves how far the open transaction was handed over, which a transactional
// pipeline does anyway. p.handing must be held.
func (p *Pipeline) savePartial(ctx context.Context) error {
	if p.cfg.Transactional {
		return nil
	}
	if err := p.cfg.Sink.Flush(ctx); err != nil || p.gaveUp.Load() {
		return err // what the sink has given up ends the round
	}
	ctx, cancel := context.WithTimeout(ctx, saveTimeout)
	defer cancel()
	if err := p.saveLast(ctx, nil, p.partial()); err != nil {
		return fmt.Errorf("%w: %w", errUnsaved, err)
	}
	return nil
}

// errUnsaved ends a round in which a position could not be saved.
var errUnsaved = errors.New("hold the stream")
