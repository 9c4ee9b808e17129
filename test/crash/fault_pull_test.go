package crash

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// pullFaults end walpost at each step of a pull, where the stream takes over, and where a
// running stream is left for a pull; also beside a standby, which then goes on in the middle
// of the backlog. With shards they hit the walpost of one, and its standby waits for its slot.
var pullFaults = []fault{
	{slotCopied.name, 3, endedInPull(slotCopied, alone)},
	{copyAdvanced.name, 2, endedInPull(copyAdvanced, alone)},
	{inChunk.name, 4, endedInPull(inChunk, alone)},
	{streamTakesOver.name, 4, endedInPull(streamTakesOver, alone)},
	{streamLeft.name, 3, endedInPull(streamLeft, whileStreaming(false))},
	{slotCopied.name + besideStandby, 2, endedInPull(slotCopied, twoStandbys)},
	{copyAdvanced.name + besideStandby, 2, endedInPull(copyAdvanced, twoStandbys)},
	{inChunk.name + besideStandby, 3, endedInPull(inChunk, twoStandbys)},
	{streamTakesOver.name + besideStandby, 2, endedInPull(streamTakesOver, twoStandbys)},
	{streamLeft.name + besideStandby, 2, endedInPull(streamLeft, whileStreaming(true))},
}

const besideStandby = ", beside a standby"

// pullEnd is one instance that was ended in a pull.
type pullEnd struct {
	step string
	kill bool
	hit  bool      // it was in the step
	next *instance // that waited for the slot; nil for none
}

// puller brings an instance to pull, and has it watched. It returns the one that waits for
// the slot, nil for none.
type puller func(ctx context.Context, s *stage, w *pullWatch, rows int) (*instance, error)

// triesOfStep is how often a step is tried that was over before walpost was ended.
const triesOfStep = 5

// endedInPull writes more than is streamed, and ends at the step who pulls it, by kill -9
// or SIGTERM. It is frozen first: what is seen of it then is what it ends in. A step that
// was over by then is missed, and tried again.
func endedInPull(step pullStep, pull puller) func(context.Context, *stage, *rand.Rand) error {
	return func(ctx context.Context, s *stage, r *rand.Rand) error {
		conn, err := connect(ctx, s.dsn)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		for range triesOfStep {
			s.over = time.Time{}
			rows, delay := 1000+r.IntN(3000), between(r, 0, step.delay)
			end := &pullEnd{step: step.name, kill: r.IntN(2) == 0}
			w := &pullWatch{slot: s.slot, conn: conn, pulling: time.Now()}
			if end.next, err = pull(ctx, s, w, rows); err != nil {
				return err
			}
			s.pullEnds = append(s.pullEnds, end)
			err = errors.Join(w.slow(step.slow), w.wait(ctx, step), w.widen())
			<-time.After(delay) // somewhere in it
			if err := errors.Join(err, s.endInPull(ctx, w, step, end)); err != nil || end.hit {
				return err
			}
		}
		return nil
	}
}

// endInPull ends who pulls, and notes whether it was in the step. Who waits is the main
// instance from then on, or a new one.
func (s *stage) endInPull(ctx context.Context, w *pullWatch, step pullStep, end *pullEnd) error {
	err := freeze(w.i)
	<-time.After(5 * time.Millisecond) // the server has what it had sent, but on a slow way
	frozen, looked := w.look(ctx)
	end.hit = step.in(frozen)
	if end.next != nil {
		_, word := harness.Ready(ctx, end.next.admin)
		end.hit = end.hit && word == standbyWord
	}
	s.ended()
	if end.kill {
		err = errors.Join(err, looked, s.kill(w.i))
	} else {
		begun := time.Now()
		w.i.asked = true
		stop(w.i)
		err = errors.Join(err, looked, thaw(w.i), s.stopped(w.i, begun))
	}
	err = errors.Join(err, w.i.pg.Heal())
	// Thawed it may have gone on before it noticed.
	end.hit = end.hit && w.pulls() == frozen.pulls
	if !end.hit {
		s.t.Logf("missed: %s; %d begun and %d ended, none had %s before, walsender %q, %q",
			step.name, frozen.begun, frozen.ended, frozen.at.Sub(frozen.pulling), frozen.sender, frozen.query)
	}
	if end.next != nil {
		s.main = end.next
	} else {
		s.restart()
	}
	return err
}

// pullEarly makes an instance pull whatever is more than a few transactions.
const pullEarly = "WALPOST_POSTGRES_PULL_ABOVE=16KiB"

// alone has a new instance pull what was written while nobody published. Nobody waits.
func alone(ctx context.Context, s *stage, w *pullWatch, rows int) (*instance, error) {
	if err := s.kill(s.main); err != nil {
		return nil, err
	}
	err := errors.Join(s.backlog(rows), w.others(ctx))
	s.restart(pullEarly)
	w.i = s.main
	return nil, err
}

// twoStandbys has one of two standbys, whichever gets the slot, pull what was written while
// its owner was frozen. It returns the other, which waits on.
func twoStandbys(ctx context.Context, s *stage, w *pullWatch, rows int) (*instance, error) {
	old := s.main
	var both []*instance
	for range 2 {
		i, err := s.standby(pullEarly)
		if err != nil {
			return nil, errors.Join(err, s.killAll(both))
		}
		both = append(both, i)
	}
	// It keeps the slot while it is frozen.
	if err := errors.Join(freeze(old), s.backlog(rows), w.others(ctx)); err != nil {
		return nil, errors.Join(err, thaw(old), s.killAll(both))
	}
	err := s.kill(old)
	if wait := s.until(20*time.Second, "one of two standbys takes over", func() bool {
		for n, i := range both {
			if _, word := harness.Ready(ctx, i.admin); word != standbyWord {
				s.main, w.i = i, i
				both = []*instance{both[1-n]}
				return true
			}
		}
		return false
	}); wait != nil {
		s.main = both[0]
		return nil, errors.Join(err, wait, s.killAll(both[1:]))
	}
	if err != nil {
		return nil, errors.Join(err, s.killAll(both))
	}
	return both[0], nil
}

func (s *stage) killAll(instances []*instance) (err error) {
	for _, i := range instances {
		err = errors.Join(err, s.kill(i))
	}
	return err
}

// whileStreaming has an instance stream through a way so narrow that it falls behind what
// is written. Its standby waits, if it is to have one.
func whileStreaming(beside bool) puller {
	return func(ctx context.Context, s *stage, w *pullWatch, rows int) (next *instance, err error) {
		if err := s.kill(s.main); err != nil {
			return nil, err
		}
		s.restart(pullEarly, lookOften)
		if beside {
			next, err = s.standby(pullEarly)
		} else {
			err = s.recovered()
		}
		if err != nil {
			return nil, err
		}
		w.i, w.write = s.main, s.burst(rows)
		if err = errors.Join(w.streams(ctx), w.others(ctx), w.narrow()); err != nil && next != nil {
			return nil, errors.Join(err, s.kill(next))
		}
		return next, err
	}
}

// lookOften makes an instance see soon that it is behind.
const lookOften = "WALPOST_POSTGRES_STATUS_INTERVAL=200ms"

// burst returns what commits so many rows of the shard, some at a call, and nothing more then.
func (s *stage) burst(rows int) func() {
	const size = 100 // transactions so small that they are not streamed before their commit
	return func() {
		if rows < size {
			return
		}
		if err := s.probe.write(s.t.Context(), func(ctx context.Context, t *txn) error {
			return t.insert(ctx, "outbox", t.rows(size, func() *key { return t.ownOf(s.Index) }))
		}); err == nil {
			rows -= size
		}
	}
}

// backlog commits so many rows.
func (s *stage) backlog(rows int) error {
	return s.until(maxRecovery, "the writer can write", func() bool {
		return s.probe.write(s.t.Context(), largeRows(rows)) == nil
	})
}

// pullsEnded counts the instances that ended between the beginning of a pull and the
// stream that takes over.
func (s *stage) pullsEnded() (n int) {
	for _, i := range s.instances {
		if strings.Count(i.Log(), pullBegins) > strings.Count(i.Log(), pullEnds) {
			n++
		}
	}
	return n
}
