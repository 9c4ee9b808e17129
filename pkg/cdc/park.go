package cdc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"
)

// letters is the pipeline's hold on the dead-letter topic.
type letters struct {
	opened Position // the server and its end of WAL, when the stream was opened; owned by Run's goroutine
	lost   bool     // another instance has claimed the log; owned by Run's goroutine between rounds

	lots  *Lots  // as of all letters handed over; guarded by handing; nil without dead letters
	owner string // the name that this pipeline writes under; guarded by handing

	// Owned by claim before the stream runs, and by attend while it does.
	next  int64     // offset up to which the log was read
	asked []*Letter // requests to carry out
	job   *job      // the first of them, if it was begun
}

// errClaimed ends a stream when another instance has claimed the log.
var errClaimed = errors.New("another process writes dead letters for this slot")

// claim makes this instance the log's only writer, and reads the log up to where
// that is so: what an earlier one writes after it is void. A fresh start takes all
// it knows from the log.
func (p *Pipeline) claim(ctx context.Context, fresh bool) error {
	d := p.cfg.DeadLetters
	if d == nil {
		return nil
	}
	p.handing.Lock()
	defer p.handing.Unlock()
	ls := &p.letters
	ls.owner = rand.Text()
	if fresh {
		ls.lots, ls.next, ls.asked, ls.job = NewLots(d.Slot), 0, nil, nil
	}
	var b batch
	if err := p.write(ctx, &Letter{Kind: LetterClaim}, &b); err != nil {
		return fmt.Errorf("claim dead-letter topic %s: %w", d.Topic, err)
	}
	for claimed := false; !claimed; {
		var err error
		if claimed, err = p.readClaim(ctx, fresh); err != nil {
			return fmt.Errorf("read dead-letter topic %s: %w", d.Topic, err)
		}
	}
	if fresh {
		ls.asked, ls.lots.asked, ls.lots.alone = ls.lots.asked, nil, nil
		p.cfg.Logger.Info("dead letters are read", "topic", d.Topic, "parked_keys", len(ls.lots.keyed), "requests", len(ls.asked))
	}
	p.countParked()
	return nil
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
		case l.Slot != p.cfg.DeadLetters.Slot:
		case fresh:
			ls.lots.Apply(l)
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

// write hands a letter without an event over. The lock on handing must be held.
func (p *Pipeline) write(ctx context.Context, l *Letter, b *batch) error {
	r := NewRecord()
	r.batch = b
	return p.produceLetter(ctx, l, r)
}

// produceLetter makes l of r and hands it over. What the dead-letter topic itself
// refuses is for somebody to mend.
func (p *Pipeline) produceLetter(ctx context.Context, l *Letter, r *Record) error {
	d := p.cfg.DeadLetters
	l.Slot, l.Owner, l.Time = d.Slot, p.letters.owner, time.Now()
	d.Encode(l, r)
	err := p.produce(ctx, r)
	err = describe(err, r, l.Table)
	var poison *PoisonError
	if errors.As(err, &poison) {
		return d.refuse(poison)
	}
	return err
}

// refuse says that the dead-letter topic does not take a letter.
func (d *DeadLetters) refuse(poison *PoisonError) error {
	hint := "raise the max.message.bytes of topic " + d.Topic
	if poison.Reason != PoisonOversize {
		hint = "set delivery.dead_letter_topic to a topic that takes every record"
	}
	return &RefusedError{fmt.Errorf("dead letter: %w", poison), hint}
}

// produce hands r over to the sink. The lock on handing must be held.
func (p *Pipeline) produce(ctx context.Context, r *Record) error {
	b := r.batch
	if b != nil {
		b.add()
	}
	err := p.cfg.Sink.Produce(ctx, r, p.done)
	if err != nil && b != nil {
		b.done(nil) // it was not taken
	}
	return err
}

// send hands r over: to its own topic, or to the dead letters if it is poison or
// comes behind a dead letter of its key and topic.
func (h *handler) send(ctx context.Context, r *Record, poison *PoisonError, table string) error {
	p := (*Pipeline)(h)
	if h.letters.lots == nil {
		return p.produce(ctx, r)
	}
	if lot := h.letters.lots.of(r); lot != nil && !lot.Dead.precededBy(h.history(), r.CommitLSN, r.Ordinal) {
		return h.bury(ctx, LetterParked, r, poison, table)
	}
	if poison == nil && r.Topic == h.cfg.DeadLetters.Topic {
		poison = errReserved()
	}
	if poison == nil {
		poison = p.sentence(r)
	}
	if poison != nil {
		return h.bury(ctx, LetterDead, r, poison, table)
	}
	err := p.produce(ctx, r)
	if !errors.As(err, &poison) {
		return err
	}
	return h.bury(ctx, LetterDead, r, poison, table)
}

func errReserved() *PoisonError {
	return &PoisonError{Reason: PoisonTopic, Err: errors.New("the topic is the dead-letter topic")}
}

// history is where the session's LSNs are positions.
func (h *handler) history() Position {
	return Position{SystemID: h.session.systemID, Timeline: h.session.timeline}
}

// bury hands r over to the dead-letter topic. It is an ordinary record of its
// transaction there, so the watermark waits for it.
func (h *handler) bury(ctx context.Context, kind LetterKind, r *Record, poison *PoisonError, table string) error {
	p := (*Pipeline)(h)
	if kind == LetterDead && r.Key != nil {
		// What precedes it in its key must be durable first: it may yet be refused,
		// and is then to be the first dead letter itself.
		if err := h.cfg.Sink.Flush(ctx); err != nil {
			return err
		}
	}
	l := &Letter{Kind: kind, Event: r, History: h.history(), Table: table, Time: time.Now(), Offset: -1}
	if poison != nil {
		p.countFailed(poison.Reason)
		l.Reason, l.Error, l.Missing = poison.Reason, poison.Err.Error(), poison.Missing
	}
	event := newLot(l)
	if err := p.produceLetter(ctx, l, r); err != nil {
		return err
	}
	h.letters.lots.put(event)
	p.countParked()
	if kind == LetterDead {
		p.countDead(l.Reason)
		p.cfg.Logger.Error("dead letter: this row can never be published as it is, and later ones of its key wait behind it",
			"reason", string(l.Reason), "id", event.Dead.ID, "lsn", event.Dead.LSN.String(), "ordinal", event.Dead.Ordinal,
			"table", table, "topic", event.Topic, "hint", "walpost dlq show "+event.Dead.Name())
	}
	return nil
}

// batch counts records in flight that belong to no transaction. Its zero value is
// ready for use.
type batch struct {
	mu     sync.Mutex
	flying int           // guarded by mu
	err    error         // guarded by mu; the first
	landed chan struct{} // guarded by mu; closed when none flies, nil while nobody waits
}

func (b *batch) add() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flying++
}

func (b *batch) done(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flying--
	if b.err == nil {
		b.err = err
	}
	if b.flying == 0 && b.landed != nil {
		close(b.landed)
		b.landed = nil
	}
}

// wait returns once nothing is in flight, or ctx is done.
func (b *batch) wait(ctx context.Context) error {
	for {
		landed, err := b.state()
		if landed == nil {
			return err
		}
		select {
		case <-landed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// state returns a channel that closes when nothing is in flight, or nil if that is
// so now, and the first error.
func (b *batch) state() (<-chan struct{}, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.flying == 0 {
		return nil, b.err
	}
	if b.landed == nil {
		b.landed = make(chan struct{})
	}
	return b.landed, b.err
}
