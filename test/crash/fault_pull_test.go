package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/test/harness"
)

// pullFaults end walpost at each step of a pull, and where the stream takes over; also
// beside a standby, which then goes on in the middle of the backlog. With shards they hit
// the walpost of one, and its standby waits for its slot.
var pullFaults = []fault{
	{slotCopied.name, 3, endedInPull(slotCopied, alone)},
	{copyAdvanced.name, 2, endedInPull(copyAdvanced, alone)},
	{inChunk.name, 4, endedInPull(inChunk, alone)},
	{streamTakesOver.name, 4, endedInPull(streamTakesOver, alone)},
	{slotCopied.name + besideStandby, 2, endedInPull(slotCopied, twoStandbys)},
	{copyAdvanced.name + besideStandby, 2, endedInPull(copyAdvanced, twoStandbys)},
	{inChunk.name + besideStandby, 3, endedInPull(inChunk, twoStandbys)},
	{streamTakesOver.name + besideStandby, 2, endedInPull(streamTakesOver, twoStandbys)},
}

const besideStandby = ", beside a standby"

// pullStep is a step of a pull.
type pullStep struct {
	name  string
	slow  []harness.Direction // ways on which all takes longer, so that a short step lasts
	delay time.Duration       // at most so long after it was seen first walpost is ended
	in    func(pullLook) bool
}

// stepLatency is how much longer it takes on the ways that are slow.
const stepLatency = 50 * time.Millisecond

var answers = []harness.Direction{harness.ToWalpost}

var pullSteps = []pullStep{slotCopied, copyAdvanced, inChunk, streamTakesOver}

var (
	slotCopied = pullStep{"pull: ended while the slot is copied", answers, 20 * time.Millisecond, func(l pullLook) bool {
		return l.begun == l.ended && strings.Contains(l.query, "pg_copy_logical_replication_slot")
	}}
	copyAdvanced = pullStep{"pull: ended while the copy is advanced", answers, 20 * time.Millisecond, func(l pullLook) bool {
		return l.begun == l.ended && strings.Contains(l.query, "pg_replication_slot_advance")
	}}
	inChunk = pullStep{"pull: ended in a chunk", nil, 200 * time.Millisecond, func(l pullLook) bool {
		return l.begun > l.ended
	}}
	streamTakesOver = pullStep{"pull: ended where the stream takes over", harness.Directions, 20 * time.Millisecond, func(l pullLook) bool {
		return l.begun == l.ended && l.ended > 0 && l.at.Sub(l.pulling) < maxTakeOver && l.sender != senderStreams
	}}
)

// What walpost says once it has a copy of the slot that stands where the stream does, and
// where all of it is handed over.
const (
	pullBegins = "pulling a backlog"
	pullEnds   = "backlog pulled"
)

// maxTakeOver is how long ago a pull may have ended for the stream to be about to take
// over, and not to be left for another pull.
const maxTakeOver = 200 * time.Millisecond

// senderStreams is the state of a walsender that has sent all there was once. Before it is
// in startup, where it has no slot, and in catchup, where it may still decode what was pulled.
const senderStreams = "streaming"

// pullLook is what is seen of a pull from the outside.
type pullLook struct {
	at           time.Time
	query        string    // the last one on a copy of the slot, which may run; empty without a session that has one
	sender       string    // the state of the walsender that has the slot; empty if none has it
	begun, ended int       // pulls, by the log
	pulling      time.Time // the last look at which none had ended
}

// pullWatch looks at the pull of one instance.
type pullWatch struct {
	i       *instance
	slot    string
	conn    *pgx.Conn
	before  []int32 // sessions of another's pull, which may take a moment to end
	pulling time.Time
}

func (w *pullWatch) look(ctx context.Context) (pullLook, error) {
	l := pullLook{at: time.Now()}
	const query = `SELECT
		coalesce((SELECT max(query) FROM pg_stat_activity WHERE application_name = $1 AND pid <> ALL ($2) AND query LIKE '%walpost_pull_%'), ''),
		coalesce((SELECT max(r.state) FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = $1), '')`
	err := w.conn.QueryRow(ctx, query, w.slot, w.before).Scan(&l.query, &l.sender)
	log := w.i.Log()
	l.begun, l.ended = strings.Count(log, pullBegins), strings.Count(log, pullEnds)
	if l.ended == 0 {
		w.pulling = l.at
	}
	l.pulling = w.pulling
	return l, err
}

// slow delays what the instance and Postgres say to each other, and all others on its link.
func (w *pullWatch) slow(ways []harness.Direction) (err error) {
	for _, d := range ways {
		err = errors.Join(err, w.i.pg.Add("latency", d, map[string]int64{"latency": stepLatency.Milliseconds()}))
	}
	return err
}

// wait waits for the step, or for the end of a pull in which it was too short to be seen.
func (w *pullWatch) wait(ctx context.Context, step pullStep) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		l, err := w.look(ctx)
		switch {
		case err != nil:
			return err
		case step.in(l), l.ended > 0:
			return nil
		case l.at.After(deadline):
			return fmt.Errorf("no pull in 30 s; the log ends:\n%s", tail(w.i.Log()))
		}
	}
}

// pullEnd is one instance that was ended in a pull.
type pullEnd struct {
	step string
	kill bool
	hit  bool      // it was in the step
	next *instance // that waited for the slot; nil for none
}

// triesOfStep is how often a step is tried that was over before walpost was ended.
const triesOfStep = 5

// endedInPull writes more than is streamed while nobody publishes, and ends at the step who
// pulls it, by kill -9 or SIGTERM. It is frozen first: what is seen of it then is what it
// ends in. A step that was over by then is missed, and tried again.
func endedInPull(step pullStep, puller func(context.Context, *stage, *pullWatch, int) (*instance, error)) func(context.Context, *stage, *rand.Rand) error {
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
			if end.next, err = puller(ctx, s, w, rows); err != nil {
				return err
			}
			s.pullEnds = append(s.pullEnds, end)
			err = errors.Join(w.slow(step.slow), w.wait(ctx, step))
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
	log := w.i.Log()
	end.hit = end.hit && strings.Count(log, pullBegins) == frozen.begun && strings.Count(log, pullEnds) == frozen.ended
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

// alone has a new instance pull. Nobody waits.
func alone(ctx context.Context, s *stage, w *pullWatch, rows int) (*instance, error) {
	if err := s.kill(s.main); err != nil {
		return nil, err
	}
	err := errors.Join(s.backlog(rows), w.others(ctx))
	s.restart(pullEarly)
	w.i = s.main
	return nil, err
}

// twoStandbys has one of two standbys pull, whichever gets the slot. It returns the other,
// which waits on.
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

// others notes the sessions of pulls that are none of the instance's that is watched.
func (w *pullWatch) others(ctx context.Context) error {
	return w.conn.QueryRow(ctx, "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity WHERE application_name = $1", w.slot).Scan(&w.before)
}

func (s *stage) killAll(instances []*instance) (err error) {
	for _, i := range instances {
		err = errors.Join(err, s.kill(i))
	}
	return err
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
