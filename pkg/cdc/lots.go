package cdc

import (
	"bytes"
	"cmp"
	"slices"
)

// Lots is what the letters of one slot come to: which dead letters there are, and
// how many events wait behind each. Letters are applied in the order of the log.
//
// It holds the dead letter's description for each key that is parked, and for each
// dead letter without a key, but no event: some 500 bytes each, and the key. It is
// for one goroutine.
type Lots struct {
	slot  string
	owner string
	keyed map[lotKey]*Lot
	alone map[int64]*Lot // those without a key, by offset; nil: not kept
	asked []*Letter      // requests without an answer
}

// lotKey is what order is kept by: a consumer sees no order across topics.
type lotKey struct{ topic, key string }

// NewLots returns the lots of a slot before the first letter.
func NewLots(slot string) *Lots {
	return &Lots{slot: slot, keyed: map[lotKey]*Lot{}, alone: map[int64]*Lot{}}
}

// Apply takes the next letter of the log. It keeps nothing of its Event.
func (ls *Lots) Apply(l *Letter) {
	switch {
	case l.Slot != ls.slot:
	case l.Kind == LetterRequest:
		ls.asked = append(ls.asked, l)
	case l.Kind == LetterClaim:
		ls.owner = l.Owner
	case !ls.counts(l):
	case l.Kind == LetterDead || l.Kind == LetterParked:
		ls.put(newLot(l))
	case l.Kind == LetterSettled:
		ls.settle(l.Settled)
	case l.Kind == LetterAnswer:
		ls.asked = slices.DeleteFunc(ls.asked, func(q *Letter) bool { return q.Request.ID == l.Answer.Request })
	}
}

// counts reports whether l is not void: written by an instance after another one
// has claimed the log.
func (ls *Lots) counts(l *Letter) bool {
	return l.Slot == ls.slot && l.Owner == ls.owner
}

// put adds an event, which is one's dead letter if there is no lot for it yet.
func (ls *Lots) put(event *Lot) {
	k := lotKey{event.Topic, string(event.Key)}
	switch lot := ls.keyed[k]; {
	case event.Key == nil && ls.alone != nil:
		ls.alone[event.Dead.Offset] = event
	case event.Key == nil:
	case lot != nil:
		lot.Parked++
		lot.newest = event.newest
	default:
		ls.keyed[k] = event
	}
}

// newLot is the lot that l's event would open.
func newLot(l *Letter) *Lot {
	dead := l.dead()
	return &Lot{Topic: l.Event.Topic, Key: bytes.Clone(l.Event.Key), Dead: dead, newest: dead.Position}
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
	k := lotKey{s.Topic, string(s.Key)}
	lot := ls.keyed[k]
	if s.Key == nil {
		lot = ls.alone[s.Offset]
	}
	switch {
	case lot == nil:
	case s.Dead != nil:
		lot.Dead, lot.Parked = *s.Dead, s.Parked
	case s.Key == nil:
		delete(ls.alone, s.Offset)
	default:
		delete(ls.keyed, k)
	}
}

// of returns the lot that events of r's key and topic are parked in, or nil.
func (ls *Lots) of(r *Record) *Lot {
	if len(ls.keyed) == 0 || r.Key == nil {
		return nil
	}
	return ls.keyed[lotKey{r.Topic, string(r.Key)}]
}

// List returns the lots that are not settled, in the order in which their events
// were found to be dead.
func (ls *Lots) List() []*Lot {
	var list []*Lot
	for _, l := range ls.keyed {
		list = append(list, l)
	}
	for _, l := range ls.alone {
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b *Lot) int { return cmp.Compare(a.Dead.Offset, b.Dead.Offset) })
	return list
}
