package crash

import (
	"slices"
	"sort"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// interruption is why events of a shard may come again: a crash, a take-over, or a stop
// whose drain ran out.
type interruption struct {
	why   string
	from  time.Time // what comes again comes after it
	until time.Time // and had come before it, but for slack; of a take-over, when the old instance had ended its stream

	// saved is the position at the time. What committed before it must not
	// come again.
	saved cdc.LSN

	// whole is a time at which everything in Kafka was acknowledged for
	// sure. Transactions that were there with all their events must not come
	// again: a stop saves what was acknowledged, also when the rest never is.
	// Zero after a crash, which saves nothing.
	whole time.Time
}

// slack is how long what a killed process has sent may be under way.
const slack = time.Second

// explains reports whether the repeat is allowed.
func (i interruption) explains(r repeat) bool {
	switch {
	case r.at < i.from.UnixMilli(), r.ev.at > i.until.Add(slack).UnixMilli():
		return false
	case r.ev.tx.after != 0 && r.ev.tx.after <= i.saved:
		return false
	}
	return i.whole.IsZero() || r.ev.part.left > 0 || r.ev.part.last >= i.whole.UnixMilli()
}

// verdict is what a block has shown.
type verdict struct {
	events   int
	shares   []int // of the events, by shard
	repeated int   // explained
	wrong    map[string]int
	examples []string
	inFlight int // faults that hit an event between its commit and Kafka
}

// saves are the positions that were saved.
type saves interface {
	// early reports whether a position that covers the event was saved before
	// the event was in Kafka, and which.
	early(ev *event) (cdc.LSN, bool)
}

// account is what a shard has saved, and its interruptions, of which there are none
// where nothing may come again.
type account struct {
	saved   saves
	reasons []interruption
}

// judge compares the ledger with each shard's account. The reader, the writer and the
// samplers must have ended.
func judge(l *ledger, shards ...account) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	shares := make([]int, len(shards))
	hit := make([]bool, len(l.faults))
	for id, ev := range l.events {
		shares[ev.key.shard]++
		if ev.seen == 0 {
			l.fault(lost, ev.tx.committed, "%s, key %s seq %d, committed between %s and %s", id, ev.key.name, ev.seq, ev.tx.before, ev.tx.after)
			continue
		}
		markHits(hit, l.faults, ev)
		if lsn, wrong := shards[ev.key.shard].saved.early(ev); wrong && !ev.parked {
			l.fault(early, ev.at, "%s, key %s seq %d, committed before %s, came after %s was saved", id, ev.key.name, ev.seq, ev.tx.after, lsn)
		}
	}
	explained := 0
	for _, r := range l.repeats {
		if slices.ContainsFunc(shards[r.ev.key.shard].reasons, func(i interruption) bool { return i.explains(r) }) {
			explained++
			continue
		}
		l.fault(unexpected, r.at, "%s, key %s seq %d, committed before %s: first at %s, again at %s", r.id, r.ev.key.name, r.ev.seq, r.ev.tx.after, timeOfDay(r.ev.at), timeOfDay(r.at))
	}
	v := verdict{events: len(l.events), shares: shares, repeated: explained, wrong: l.wrong, examples: l.examples}
	for _, h := range hit {
		if h {
			v.inFlight++
		}
	}
	return v
}

// markHits marks the faults that began while the event was under way.
func markHits(hit []bool, faults []begun, ev *event) {
	n := sort.Search(len(faults), func(i int) bool { return faults[i].at >= ev.tx.committed })
	for ; n < len(faults) && faults[n].at < ev.visible; n++ {
		hit[n] = true
	}
}

func timeOfDay(ms int64) string { return time.UnixMilli(ms).Format("15:04:05.000") }
