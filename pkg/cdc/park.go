package cdc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

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
	b, tx, size := r.batch, r.tx, len(r.Key)+len(r.Value)
	if b != nil {
		b.add()
	}
	err := p.cfg.Sink.Produce(ctx, r, p.done)
	for errors.Is(err, ErrWait) {
		if err = p.commitFirst(ctx, r); err == nil {
			err = p.cfg.Sink.Produce(ctx, r, p.done)
		}
	}
	if err != nil && b != nil {
		b.done(nil) // it was not taken
	}
	switch {
	case !p.cfg.Transactional:
	case err == nil && tx == nil:
		p.txn.took(size, time.Now())
	case err != nil && ctx.Err() == nil && !errors.As(err, new(*PoisonError)):
		return p.spoil(err) // whoever hands it over: the sink takes nothing more
	}
	return err
}

// send hands r over: to its own topic, or to the dead letters if it is poison or
// comes behind a dead letter of its key and topic. It waits while there is no room
// for one more of those.
func (h *handler) send(ctx context.Context, r *Record, poison *PoisonError, rel *Relation) error {
	p := (*Pipeline)(h)
	if h.letters.lots == nil {
		return p.produce(ctx, r)
	}
	for held := false; ; held = true {
		kind, why, err := h.place(ctx, r, poison)
		full := kind != "" && h.full(kind)
		if held && !full {
			p.setHeld(false)
		}
		switch {
		case kind == "":
			return err
		case !full:
			return h.bury(ctx, kind, r, why, rel.qualified())
		}
		poison = why // and its key may be free by then
		if err := h.awaitRoom(ctx, kind); err != nil {
			return err
		}
	}
}

// place hands r over to its own topic, or returns as which kind of letter it must
// be buried, and why.
func (h *handler) place(ctx context.Context, r *Record, poison *PoisonError) (LetterKind, *PoisonError, error) {
	p := (*Pipeline)(h)
	if lot := h.letters.lots.of(r); lot != nil && !lot.Dead.precededBy(h.history(), r.CommitLSN, r.Ordinal) {
		return LetterParked, poison, nil
	}
	if poison == nil && r.Topic == h.cfg.DeadLetters.Topic {
		poison = errReserved()
	}
	if poison == nil {
		poison = p.sentence(r)
	}
	if poison != nil {
		return LetterDead, poison, nil
	}
	err := p.produce(ctx, r)
	if err == nil {
		return "", nil, nil
	}
	var refusal *PoisonError // not poison, which would be allocated for every event
	if !errors.As(err, &refusal) {
		return "", nil, err
	}
	return LetterDead, refusal, nil
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
	if kind == LetterDead && r.Key != nil && !h.cfg.Transactional {
		// What precedes it in its key must be durable first: it may yet be refused,
		// and is then to be the first dead letter itself. A transaction goes with it
		// as a whole.
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
