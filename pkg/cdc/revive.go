package cdc

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"
)

// job is a request that is being carried out. It outlives a stream that breaks,
// and then goes on where it was: what it handed over is not handed over again.
type job struct {
	request  *Letter
	at       int64 // offset to read on from
	owners   *Lots // says which letters are void
	revivals []*revival
	keyed    map[lotKey]*revival
	alone    map[int64]*revival
	flying   batch
	answer   Answer
}

// revival is a lot that a job is about.
type revival struct {
	lot  Lot // as it was found
	seen int // of its events, how many were read from the log
	gone int // of them, how many were published or discarded
	dead *DeadLetter
	done bool

	upto, noted int64 // offset of the last that is gone, and what the log says of that

	// known are the identities of the events that were read, also of settled
	// ones, as hashes: what came again after a crash is not published again.
	// That takes some 20 bytes an event while the job goes on.
	known map[uint64]struct{}
}

const (
	// maxPasses is how often a job tries to catch up with what is being parked
	// meanwhile. Then it holds the stream up for the rest.
	maxPasses = 3

	// maxHold is how long it holds it up at a time: what it waits for may be an
	// outage.
	maxHold = 10 * time.Second

	// maxStillDead bounds the lots that an answer lists.
	maxStillDead = 100
)

// carryOut does what is asked for, and answers. The events of a lot are published
// in the order of the log. New ones of its key are parked behind them until the
// last has been acknowledged, and that they are settled is in the log too: only
// then is the key free.
func (p *Pipeline) carryOut(ctx context.Context, s Stream, req *Letter) error {
	j := p.letters.job // nobody else sets it
	if j == nil {
		var err error
		if j, err = p.survey(ctx, req); err != nil {
			return err
		}
		p.setJob(j)
	}
	if err := p.untilSaved(ctx, j); err != nil {
		return err
	}
	for len(j.revivals) > 0 && j.at <= req.Offset {
		if err := p.sweep(ctx, j, false); err != nil {
			return err
		}
	}
	for pass := 1; ; pass++ {
		if err := j.flying.wait(ctx); err != nil {
			return err
		}
		settled, err := p.settle(ctx, s, j, pass >= maxPasses)
		if err != nil {
			return err
		}
		if settled {
			return p.reply(ctx, j)
		}
		if p.hasRead(j) {
			continue // what is left is in flight
		}
		if err := p.sweep(ctx, j, false); err != nil {
			return err
		}
	}
}

// survey finds the lots that the request is about: those that were dead when it
// was written.
func (p *Pipeline) survey(ctx context.Context, req *Letter) (*job, error) {
	slot := p.cfg.DeadLetters.Slot
	lots := NewLots(slot)
	for at := int64(0); at < p.letters.next; {
		found, err := p.fetch(ctx, at)
		if err != nil {
			return nil, err
		}
		for _, l := range found {
			if at = l.Offset + 1; at <= p.letters.next {
				lots.Apply(l)
			}
		}
	}
	p.trim(ctx, p.trimmable(lots))
	j := &job{request: req, owners: NewLots(slot), keyed: map[lotKey]*revival{}, alone: map[int64]*revival{}}
	j.answer.Request = req.Request.ID
	for _, lot := range lots.List() {
		if lot.Dead.Offset > req.Offset || !req.Request.Wants(lot) {
			continue
		}
		rv := &revival{lot: *lot, known: map[uint64]struct{}{}, upto: lot.upto, noted: lot.upto}
		j.revivals = append(j.revivals, rv)
		if lot.Key == nil {
			j.alone[lot.Dead.Offset] = rv
		} else {
			j.keyed[lotKey{lot.Topic, string(lot.Key)}] = rv
		}
	}
	j.answer.Lots = len(j.revivals)
	p.cfg.Logger.Info("carrying out a request about dead letters", "request", req.Request.ID, "action", string(req.Request.Action), "lots", len(j.revivals))
	return j, nil
}

// sweep reads on in the log, and does with each event what is asked for. locked
// says that handing is held.
func (p *Pipeline) sweep(ctx context.Context, j *job, locked bool) error {
	found, err := p.fetch(ctx, j.at)
	if err != nil {
		return err
	}
	for _, l := range found {
		j.owners.identify(l)
		if rv := j.find(l); rv != nil {
			if err := p.revive(ctx, j, rv, l, locked); err != nil {
				return err
			}
		}
		j.at = l.Offset + 1
	}
	return nil
}

// find returns the revival that a letter's event belongs to, or nil.
func (j *job) find(l *Letter) *revival {
	if l.Event == nil || !j.owners.counts(l) {
		return nil
	}
	rv := j.alone[l.Offset]
	if l.Event.Key != nil {
		rv = j.keyed[lotKey{l.Event.Topic, string(l.Event.Key)}]
	}
	if rv == nil || rv.done {
		return nil
	}
	return rv
}

// identity tells events apart, or is zero for one without an id: its place alone may
// be another's, if the source counts other rows now.
func (l *Letter) identity() uint64 {
	if len(l.Event.ID) == 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, l.History.SystemID, l.History.Timeline, uint64(l.Event.CommitLSN), l.Event.Ordinal)
	_, _ = h.Write(l.Event.ID)
	return h.Sum64()
}

// knows reports whether an event was dealt with before.
func (rv *revival) knows(identity uint64) bool {
	_, known := rv.known[identity]
	return known && identity != 0
}

// revive does with the next event of a lot what is asked for. Once one has failed
// again, those behind it stay.
//
// The lock on handing is held from when an event is handed over until it is noted,
// so that a commit in between has both or none.
func (p *Pipeline) revive(ctx context.Context, j *job, rv *revival, l *Letter, locked bool) error {
	if !locked {
		p.handing.Lock()
		defer p.handing.Unlock()
	}
	if p.stopping {
		return errStopping
	}
	id := l.identity()
	settled := l.Offset < rv.lot.Dead.Offset
	if !settled && rv.dead == nil && !rv.knows(id) {
		if err := p.deal(ctx, j, rv, l); err != nil {
			return err
		}
	}
	if rv.dead == nil {
		rv.known[id] = struct{}{}
	}
	if !settled {
		rv.seen++
	}
	if !settled && rv.dead == nil {
		rv.gone, rv.upto = rv.gone+1, max(rv.upto, l.Offset)
	}
	return nil
}

// deal publishes the next event of a lot, or drops it. If it fails again, the rest
// of the lot stays behind it. What the log says is done is only counted.
func (p *Pipeline) deal(ctx context.Context, j *job, rv *revival, l *Letter) error {
	q := j.request.Request
	if q.Action == Discard && (rv.seen == 0 || q.WithParked && l.Offset < j.request.Offset) {
		j.answer.Discarded++
		return nil
	}
	if l.Offset <= rv.lot.upto {
		j.answer.Published++
		return nil
	}
	dead := l.dead() // before the event is the sink's
	err := p.publishAgain(ctx, j, l)
	var poison *PoisonError
	if errors.As(err, &poison) {
		p.countFailed(poison.Reason)
		dead.Reason, dead.Error, dead.Time = poison.Reason, poison.Err.Error(), time.Now()
		rv.dead = &dead
		return nil
	}
	if err == nil {
		j.answer.Published++
	}
	return err
}

// publishAgain hands the event over as it was to be published at first.
func (p *Pipeline) publishAgain(ctx context.Context, j *job, l *Letter) error {
	r := l.Event
	if to := j.request.Request.To; to != "" {
		r.Topic = to
	}
	switch {
	case l.Missing != "":
		return &PoisonError{Reason: l.Reason, Err: fmt.Errorf("the row could not be read as a whole, the dead letter is without: %s", l.Missing)}
	case r.Key == nil:
		return &PoisonError{Reason: PoisonKey, Err: errors.New("without a key the row has no place in any order")}
	case r.Topic == p.cfg.DeadLetters.Topic:
		return errReserved()
	}
	if poison := p.sentence(r); poison != nil {
		return poison
	}
	r.batch = &j.flying
	return p.produce(ctx, r)
}

// noteProgress writes into the open transaction how far the lots of the job have come
// in it: what was published with it is not published again after a crash. p.handing
// must be held.
func (p *Pipeline) noteProgress(ctx context.Context) error {
	if p.letters.job == nil {
		return nil
	}
	for _, rv := range p.letters.job.revivals {
		if rv.done || rv.upto <= rv.noted || rv.lot.Key == nil {
			continue
		}
		s := &Settled{Topic: rv.lot.Topic, Key: rv.lot.Key, Offset: rv.lot.Dead.Offset, Upto: rv.upto}
		if err := p.write(ctx, &Letter{Kind: LetterProgress, Settled: s}, nil); err != nil {
			return fmt.Errorf("write how far a dead letter's retry has come: %w", err)
		}
		rv.noted = rv.upto
	}
	return nil
}

// live returns the lot as it is now, or nil for one without a key.
func (p *Pipeline) live(rv *revival) *Lot {
	return p.letters.lots.keyed[lotKey{rv.lot.Topic, string(rv.lot.Key)}]
}

func (p *Pipeline) caughtUp(j *job) bool {
	for _, rv := range j.revivals {
		if !rv.done && !rv.caughtUp(p.live(rv)) {
			return false
		}
	}
	return true
}

// caughtUp reports whether all events of the lot were read from the log.
func (rv *revival) caughtUp(live *Lot) bool {
	if live != nil && rv.lot.Key != nil {
		rv.lot.Parked = live.Parked
	}
	return rv.seen == rv.lot.Parked+1
}

func (rv *revival) outcome() *Settled {
	s := &Settled{Topic: rv.lot.Topic, Key: rv.lot.Key, Offset: rv.lot.Dead.Offset, Dead: rv.dead}
	if rv.dead != nil {
		s.Parked = rv.seen - rv.gone - 1
	}
	return s
}

// conclude notes that what became of a lot is in the log.
func (p *Pipeline) conclude(j *job, rv *revival) {
	s := rv.outcome()
	rv.done = true
	p.letters.lots.settle(s)
	signal(p.letters.freed)
	if rv.dead == nil {
		j.answer.Freed++
		p.cfg.Logger.Info("dead letter settled, its key is free", "id", rv.lot.Dead.ID, "lsn", rv.lot.Dead.LSN.String(), "topic", rv.lot.Topic, "events", rv.gone)
		return
	}
	j.answer.Failed++
	if len(j.answer.StillDead) < maxStillDead {
		j.answer.StillDead = append(j.answer.StillDead, Lot{Topic: s.Topic, Key: s.Key, Dead: *s.Dead, Parked: s.Parked})
	}
	p.cfg.Logger.Error("dead letter failed again", "reason", string(rv.dead.Reason), "id", rv.dead.ID, "lsn", rv.dead.LSN.String(), "topic", rv.lot.Topic)
}

// reply answers the request.
func (p *Pipeline) reply(ctx context.Context, j *job) error {
	var b batch
	if err := p.writeAnswer(ctx, &j.answer, &b); err != nil {
		return err
	}
	return b.wait(ctx)
}

func (p *Pipeline) writeAnswer(ctx context.Context, a *Answer, b *batch) error {
	p.handing.Lock()
	defer p.handing.Unlock()
	if p.stopping {
		return errStopping
	}
	return p.write(ctx, &Letter{Kind: LetterAnswer, Answer: a}, b)
}
