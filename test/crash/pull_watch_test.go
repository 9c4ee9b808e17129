package crash

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/test/harness"
)

// pullStep is a step of a pull.
type pullStep struct {
	name  string
	slow  []harness.Direction // ways on which all takes longer, so that a short step lasts
	delay time.Duration       // at most so long after it was seen first walpost is ended
	in    func(pullLook) bool
}

var pullSteps = []pullStep{slotCopied, copyAdvanced, inChunk, streamTakesOver, streamLeft}

// stepLatency is how much longer it takes on the ways that are slow.
const stepLatency = 50 * time.Millisecond

var answers = []harness.Direction{harness.ToWalpost}

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
	streamTakesOver = pullStep{"pull: ended where the stream takes over", harness.Directions, 80 * time.Millisecond, func(l pullLook) bool {
		return l.begun == l.ended && l.ended > 0 && l.at.Sub(l.pulling) < maxTakeOver && l.sender != senderStreams
	}}
	// Until the server has ended the stream, walpost has connected twice, and copied the slot.
	streamLeft = pullStep{"pull: ended where a running stream is left for it", answers, 500 * time.Millisecond, func(l pullLook) bool {
		return l.pulls == pulls{} && l.sender == ""
	}}
)

// What walpost says once it has a copy of the slot that stands where the stream does, where
// all of it is handed over, and when a stream or pull has failed.
const (
	pullBegins  = "pulling a backlog"
	pullEnds    = "backlog pulled"
	interrupted = "stream interrupted"
)

// maxTakeOver is how long ago a pull may have ended for the stream to be about to take
// over, and not to be left for another pull.
const maxTakeOver = 200 * time.Millisecond

// senderStreams is the state of a walsender that has sent all there was once. Before it is
// in startup, where it has no slot, and in catchup, where it may still decode what was pulled.
const senderStreams = "streaming"

// pullLook is what is seen of a pull from the outside.
type pullLook struct {
	at     time.Time
	query  string // the last one on a copy of the slot, which may run; empty without a session that has one
	sender string // the state of the walsender that has the slot; empty if none has it
	pulls
	pulling time.Time // the last look at which none had ended
}

// pulls are those of one instance since the watch began, by its log.
type pulls struct{ begun, ended, failed int }

// pullWatch looks at the pull of one instance.
type pullWatch struct {
	i       *instance
	from    int // of the log
	slot    string
	conn    *pgx.Conn
	write   func()  // something to pull, while it is waited for; nil if there is a backlog
	before  []int32 // sessions of another's pull, which may take a moment to end
	pulling time.Time
}

func (w *pullWatch) look(ctx context.Context) (pullLook, error) {
	l := pullLook{at: time.Now()}
	const query = `SELECT
		coalesce((SELECT max(query) FROM pg_stat_activity WHERE application_name = $1 AND pid <> ALL ($2) AND query LIKE '%walpost_pull_%'), ''),
		coalesce((SELECT max(r.state) FROM pg_replication_slots s JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = $1), '')`
	err := w.conn.QueryRow(ctx, query, w.slot, w.before).Scan(&l.query, &l.sender)
	l.pulls = w.pulls()
	if l.ended == 0 {
		w.pulling = l.at
	}
	l.pulling = w.pulling
	return l, err
}

func (w *pullWatch) pulls() pulls {
	log := w.i.Log()[w.from:]
	return pulls{strings.Count(log, pullBegins), strings.Count(log, pullEnds), strings.Count(log, interrupted)}
}

// streams waits until the instance streams. The watch begins there.
func (w *pullWatch) streams(ctx context.Context) error {
	for deadline := time.Now().Add(maxRecovery); ; {
		w.from = len(w.i.Log())
		switch l, err := w.look(ctx); {
		case err != nil:
			return err
		case l.sender == senderStreams && l.pulls == pulls{}:
			return nil
		case l.at.After(deadline):
			return fmt.Errorf("no stream in %s; the log ends:\n%s", maxRecovery, tail(w.i.Log()))
		}
	}
}

// narrowRate is less than is written, in kB a second.
const narrowRate = 300

const bandwidth = "bandwidth"

// narrow lets less through to the instance than is written, until widen is called.
func (w *pullWatch) narrow() error {
	return w.i.pg.Add(bandwidth, harness.ToWalpost, map[string]int64{"rate": narrowRate})
}

func (w *pullWatch) widen() error {
	if w.write == nil {
		return nil
	}
	return w.i.pg.Remove(bandwidth, harness.ToWalpost)
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
		case w.write != nil:
			w.write()
		}
	}
}

// others notes the sessions of pulls that are none of the instance's that is watched.
func (w *pullWatch) others(ctx context.Context) error {
	return w.conn.QueryRow(ctx, "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity WHERE application_name = $1", w.slot).Scan(&w.before)
}
