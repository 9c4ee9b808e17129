package cdc

import (
	"context"
	"time"
)

// attend follows the log and carries out what operators ask for there, one
// request after the other, until ctx is done.
func (p *Pipeline) attend(ctx context.Context, s Stream) error {
	if p.cfg.DeadLetters == nil {
		return nil
	}
	p.trim(ctx, p.letters.trimTo)
	p.letters.trimTo = -1
	var err error
	for err == nil && ctx.Err() == nil {
		err = p.attendOnce(ctx, s)
	}
	if ctx.Err() != nil {
		err = nil // it was told to stop
	}
	return err
}

// attendOnce carries the first request out, or reads on if there is none.
func (p *Pipeline) attendOnce(ctx context.Context, s Stream) error {
	ls := &p.letters
	if len(ls.asked) == 0 || ls.answered != "" {
		// The next survey must know what became of the last request.
		err := p.follow(ctx, ls.answered)
		if err == nil {
			ls.answered = ""
		}
		return err
	}
	req := ls.asked[0]
	if err := p.carryOut(ctx, s, req); err != nil {
		return err
	}
	ls.asked, ls.answered = ls.asked[1:], req.Request.ID
	p.setJob(nil)
	p.forgetRetried()
	return nil
}

// follow reads on for requests: what there is, or up to the answer to one.
func (p *Pipeline) follow(ctx context.Context, answer string) error {
	ls := &p.letters
	for answered := answer == ""; ; {
		found, err := p.fetch(ctx, ls.next)
		if err != nil {
			return err
		}
		for _, l := range found {
			ls.next = l.Offset + 1
			switch {
			case l.Slot != p.cfg.DeadLetters.Slot:
			case l.Kind == LetterRequest:
				ls.asked = append(ls.asked, l)
			case l.Kind == LetterAnswer && l.Answer.Request == answer:
				answered = true
			case l.Kind == LetterClaim && !p.owns(l.Owner):
				ls.lost = true
				return errClaimed
			}
		}
		if answered {
			return nil
		}
	}
}

// covers reports whether the checkpoint lies behind a row.
func (p *Pipeline) covers(pos rowPlace) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	partial := p.durable.Partial
	return pos.LSN < p.durable.LSN || pos.LSN == partial.CommitLSN && pos.ordinal <= partial.Rows
}

func (p *Pipeline) setJob(j *job) {
	p.handing.Lock()
	defer p.handing.Unlock()
	p.letters.job = j
}

func (p *Pipeline) owns(owner string) bool {
	p.handing.Lock()
	defer p.handing.Unlock()
	return p.letters.owner == owner
}

// savedPoll is how often untilSaved looks.
const savedPoll = 20 * time.Millisecond

// untilSaved waits until the rows of all dead letters that a job is about, and of
// the parked events that it drops, are behind the checkpoint. Before that a crash
// would bring them again, although they are settled, and rows before them may still
// be on their way again.
func (p *Pipeline) untilSaved(ctx context.Context, j *job) error {
	ticker := time.NewTicker(savedPoll)
	defer ticker.Stop()
	for _, rv := range j.revivals {
		for !p.behind(rowPlace{rv.lot.Dead.Position, rv.lot.Dead.Ordinal}) || j.request.Request.WithParked && !p.behind(rv.lot.newest) {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-ticker.C:
			}
		}
	}
	return nil
}

// behind reports whether a row can not come again. One of a timeline that has ended
// before it never does.
func (p *Pipeline) behind(pos rowPlace) bool {
	opened := p.letters.opened
	if pos.SystemID != opened.SystemID || p.covers(pos) {
		return true
	}
	mark, _ := p.acks.Watermark()
	return pos.Timeline != opened.Timeline && pos.LSN >= opened.LSN && mark >= opened.LSN
}
