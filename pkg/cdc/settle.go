package cdc

import "context"

// settle writes down what became of the lots whose every event was dealt with, and
// frees their keys. It reports whether that is all of them. With hold it takes no
// new events until that is so, but for no longer than maxHold.
func (p *Pipeline) settle(ctx context.Context, s Stream, j *job, hold bool) (bool, error) {
	p.handing.Lock()
	defer p.handing.Unlock()
	if p.stopping {
		return false, errStopping
	}
	if hold {
		if err := p.hold(ctx, s, j); err != nil {
			return false, err
		}
	}
	if flying, err := j.flying.state(); err != nil || flying != nil && !p.cfg.Transactional {
		return false, err // the time is over
	}
	var marks batch
	var settled []*revival
	for _, rv := range j.revivals {
		if rv.done || !rv.caughtUp(p.live(rv)) {
			continue
		}
		if err := p.write(ctx, &Letter{Kind: LetterSettled, Settled: rv.outcome()}, &marks); err != nil {
			return false, err
		}
		settled = append(settled, rv)
	}
	if err := p.landed(ctx, &marks); err != nil {
		return false, err
	}
	for _, rv := range settled {
		p.conclude(j, rv)
	}
	p.countParked()
	return p.caughtUp(j), nil
}

// hold carries the job on while nothing is handed over beside it, for up to maxHold: then
// it returns nil, and what is left is not read or in flight. p.handing must be held.
func (p *Pipeline) hold(ctx context.Context, s Stream, j *job) error {
	if p.cfg.Transactional {
		if err := p.commitNow(ctx, s); err != nil { // or what is parked could not be read
			return err
		}
	}
	p.setHeldForRetry(true)
	defer p.setHeldForRetry(false)
	hctx, cancel := context.WithTimeout(ctx, maxHold)
	defer cancel()
	var err error
	for err == nil && !p.caughtUp(j) {
		err = p.sweep(hctx, j, true)
	}
	if err == nil {
		err = p.landed(hctx, &j.flying)
	}
	if err != nil && hctx.Err() != nil && ctx.Err() == nil {
		p.cfg.Logger.Warn("a request about dead letters waits for Kafka: taking events again meanwhile", "request", j.request.Request.ID)
		return nil
	}
	return err
}

// landed waits until what b counts is durable. In a transaction the order is enough: all
// of it will be, or nothing.
func (p *Pipeline) landed(ctx context.Context, b *batch) error {
	if p.cfg.Transactional {
		return nil
	}
	return b.wait(ctx)
}

// commitNow commits what was handed over. p.handing must be held.
func (p *Pipeline) commitNow(ctx context.Context, s Stream) error {
	ctx, cancel := p.commitContext(ctx)
	defer cancel()
	return p.commitHanded(ctx, s)
}

// hasRead reports whether all events of a job were read from the log.
func (p *Pipeline) hasRead(j *job) bool {
	p.handing.Lock()
	defer p.handing.Unlock()
	return p.caughtUp(j)
}
