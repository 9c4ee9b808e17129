package cdc

import (
	"bytes"
	"cmp"
	"slices"
	"time"
)

// Lots is what the letters of one slot come to: which dead letters there are, and
// how many events wait behind each. Letters are applied in the order of the log,
// which may begin where another Lots said that it is needed from.
//
// It holds the dead letter's description for each key that is parked, and for each
// dead letter without a key, but no event: some 500 bytes each, and the key. It is
// for one goroutine.
type Lots struct {
	slot  string
	owner string // whose letters count
	keyed map[lotKey]*Lot
	alone map[int64]*Lot // those without a key, by offset; nil: not kept
	dead  int            // how many lots there are, also where those without a key are not kept
	open  int            // events in all of them
	asked []*Letter      // requests without an answer

	anchor int64 // offset of the last letter that shows who the owner is
	fresh  int64 // anchor of the first answer that somebody may still look for; -1 if there is none
	shared bool  // others write to the topic, too
}

// lotKey is what order is kept by: a consumer sees no order across topics.
type lotKey struct{ topic, key string }

// answerKept is how long an answer stays in the log for who has asked.
const answerKept = 10 * time.Minute

// NewLots returns the lots of a slot before the first letter.
func NewLots(slot string) *Lots {
	return &Lots{slot: slot, keyed: map[lotKey]*Lot{}, alone: map[int64]*Lot{}, fresh: -1}
}

// Apply takes the next letter of the log. It keeps nothing of its Event.
func (ls *Lots) Apply(l *Letter) {
	ls.identify(l)
	switch {
	case l.Slot != ls.slot:
		ls.shared = true
	case l.Kind == LetterRequest:
		l.anchor = ls.anchor
		ls.asked = append(ls.asked, l)
	case !ls.counts(l):
	case l.Kind == LetterDead || l.Kind == LetterParked:
		ls.put(newLot(l))
	case l.Kind == LetterSettled:
		ls.settle(l.Settled)
	case l.Kind == LetterProgress:
		if lot := ls.lot(l.Settled); lot != nil {
			lot.upto = max(lot.upto, l.Settled.Upto)
		}
	case l.Kind == LetterAnswer:
		ls.asked = slices.DeleteFunc(ls.asked, func(q *Letter) bool { return q.Request.ID == l.Answer.Request })
		if ls.fresh < 0 && time.Since(l.Time) < answerKept {
			ls.fresh = l.Offset
		}
	}
}

// identify finds out whose letters count from l on: those of the last who has claimed
// the log, or, where it was trimmed, of who wrote the first that was kept.
func (ls *Lots) identify(l *Letter) {
	if l.Slot == ls.slot && l.Owner != "" && (l.Kind == LetterClaim || ls.owner == "") {
		ls.owner = l.Owner
	}
	if ls.counts(l) {
		ls.anchor = l.Offset
	}
}

// counts reports whether l is not void: written by an instance after another one
// has claimed the log.
func (ls *Lots) counts(l *Letter) bool {
	return l.Slot == ls.slot && l.Owner != "" && l.Owner == ls.owner
}

// neededFrom returns the offset from which on the log says all that it does. It is
// that of a letter that counts.
func (ls *Lots) neededFrom() int64 {
	from := ls.anchor
	if ls.fresh >= 0 {
		from = min(from, ls.fresh)
	}
	for _, lot := range ls.List() {
		from = min(from, lot.Dead.Offset)
	}
	for _, q := range ls.asked {
		from = min(from, q.anchor)
	}
	return from
}

// put adds an event, which is one's dead letter if there is no lot for it yet.
func (ls *Lots) put(event *Lot) {
	ls.open++
	k := lotKey{event.Topic, string(event.Key)}
	switch lot := ls.keyed[k]; {
	case event.Key == nil:
		ls.dead++
		if ls.alone != nil {
			ls.alone[event.Dead.Offset] = event
		}
	case lot != nil:
		lot.Parked++
		lot.newest = event.newest
	default:
		ls.dead++
		ls.keyed[k] = event
	}
}

// newLot is the lot that l's event would open.
func newLot(l *Letter) *Lot {
	dead := l.dead()
	return &Lot{Topic: l.Event.Topic, Key: bytes.Clone(l.Event.Key), Dead: dead, newest: rowPlace{dead.Position, dead.Ordinal}, upto: -1}
}

// dead returns the description of the letter's event.
func (l *Letter) dead() DeadLetter {
	at := l.History
	at.LSN = l.Event.CommitLSN
	return DeadLetter{
		Offset: l.Offset, ID: string(l.Event.ID), Position: at, Ordinal: l.Event.Ordinal,
		Table: l.Table, Reason: l.Reason, Error: l.Error, Time: l.Time,
	}
}

func (ls *Lots) settle(s *Settled) {
	lot := ls.lot(s)
	switch {
	case lot == nil && s.Key == nil && ls.alone == nil && s.Dead == nil:
		ls.dead, ls.open = ls.dead-1, ls.open-1
	case lot == nil:
	case s.Dead != nil:
		ls.open += s.Parked - lot.Parked
		lot.Dead, lot.Parked = *s.Dead, s.Parked
	default:
		ls.dead, ls.open = ls.dead-1, ls.open-lot.Parked-1
		delete(ls.alone, s.Offset)
		if s.Key != nil {
			delete(ls.keyed, lotKey{s.Topic, string(s.Key)})
		}
	}
}

// lot returns the one that s is about, or nil.
func (ls *Lots) lot(s *Settled) *Lot {
	if s.Key == nil {
		return ls.alone[s.Offset]
	}
	return ls.keyed[lotKey{s.Topic, string(s.Key)}]
}

// of returns the lot that events of r's key and topic are parked in, or nil.
func (ls *Lots) of(r *Record) *Lot {
	if len(ls.keyed) == 0 || r.Key == nil {
		return nil
	}
	return ls.keyed[lotKey{r.Topic, string(r.Key)}]
}

// Holds reports whether the event of l, a letter of the same log, is still dead or parked. ls
// must be as of a place in the log behind l.
func (ls *Lots) Holds(l *Letter) bool {
	switch {
	case l.Event == nil || l.Slot != ls.slot:
		return false
	case l.Event.Key == nil:
		return ls.alone[l.Offset] != nil
	}
	lot := ls.of(l.Event)
	return lot != nil && l.Offset >= lot.Dead.Offset && !lot.Dead.precededBy(l.History, l.Event.CommitLSN, l.Event.Ordinal)
}

// ParkedKeys returns how many keys events wait for, or would.
func (ls *Lots) ParkedKeys() int { return len(ls.keyed) }

// List returns the lots that are not settled, in the order in which their events
// were found to be dead.
func (ls *Lots) List() []*Lot {
	list := make([]*Lot, 0, len(ls.keyed)+len(ls.alone))
	for _, l := range ls.keyed {
		list = append(list, l)
	}
	for _, l := range ls.alone {
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b *Lot) int { return cmp.Compare(a.Dead.Offset, b.Dead.Offset) })
	return list
}
