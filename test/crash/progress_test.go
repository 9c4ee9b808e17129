package crash

import (
	"encoding/json"
	"math"
	"sort"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

// progressTopic holds the positions of exactly-once, and how far the database is published.
const progressTopic = "crash-progress"

// commit is a position that was committed in a Kafka transaction.
type commit struct {
	cdc.Checkpoint
	offset int64 // of its record
	at     int64 // append time of the marker that commits it, in Unix ms
}

// commits are in the order of the progress topic.
type commits []commit

// early implements [saves]. An event is late if it was written after the marker of
// a position that covers it: a marker is written when all of its transaction is.
func (c commits) early(ev *event) (cdc.LSN, bool) {
	n := sort.Search(len(c), func(i int) bool { return c[i].LSN >= ev.tx.after })
	if n == len(c) || ev.at <= c[n].at {
		return 0, false
	}
	return c[n].LSN, true
}

// ahead returns what the slot had confirmed by a sample, if no position like it was
// written by then and is committed.
func (c commits) ahead(s sample) bool {
	n := sort.Search(len(c), func(i int) bool { return c[i].LSN >= s.lsn })
	return n == len(c) || c[n].offset >= s.ends[0]
}

// progress follows the progress topic as a consumer of committed records.
type progress struct {
	slot  string
	timed bool // records have the broker's time

	mu   sync.Mutex
	all  commits            // guarded by mu
	open map[int64][]commit // without their marker, by producer; guarded by mu
	end  int64              // read so far; guarded by mu
}

// newProgress follows a slot. The in-process broker does not say when it has appended
// a record, so that there nothing is found to be early.
func newProgress(slot string, timed bool) *progress {
	return &progress{slot: slot, timed: timed, open: map[int64][]commit{}}
}

func (p *progress) record(rec *kgo.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rec.Offset < p.end {
		return
	}
	p.end = rec.Offset + 1
	if rec.Attrs.IsControl() {
		for _, c := range p.open[rec.ProducerID] { // of what was aborted nothing came
			if c.at = math.MaxInt64; p.timed {
				c.at = rec.Timestamp.UnixMilli()
			}
			p.all = append(p.all, c)
		}
		delete(p.open, rec.ProducerID)
		return
	}
	value := struct {
		Slot string `json:"slot"`
		cdc.Checkpoint
	}{}
	if err := json.Unmarshal(rec.Value, &value); err != nil || value.Slot != p.slot {
		return // another's
	}
	p.open[rec.ProducerID] = append(p.open[rec.ProducerID], commit{Checkpoint: value.Checkpoint, offset: rec.Offset})
}

// last returns the last position that is known to be committed.
func (p *progress) last() commit {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.all) == 0 {
		return commit{}
	}
	return p.all[len(p.all)-1]
}

// read returns how far the topic is read.
func (p *progress) read() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

// judgeCommits finds what was confirmed before it was committed in Kafka.
func judgeCommits(l *ledger, all commits, samples []sample) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range samples {
		if all.ahead(s) {
			l.fault(ahead, s.at, "confirmed %s, and by offset %d of the progress topic no such position was committed", s.lsn, s.ends[0])
		}
	}
}
