package replay

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/walpost/walpost/pkg/cdc"
)

// Waiting are the events that are dead, or parked behind one that is. The stream has
// confirmed them, and is still to publish them: a replay that did it before would break the
// order of their key. It holds some 40 bytes for each, of which delivery.max_dead_letters
// and delivery.max_parked_events limit the number. Nil is none.
type Waiting struct {
	cluster uint64
	marks   map[mark]struct{}
}

// mark tells an event from others.
type mark [16]byte

// NewWaiting returns one without events. Those of a cluster's WAL are told by their place in
// it. A cluster of zero is for rows of a table, which are told by their ids: all rows without
// one are the same.
func NewWaiting(cluster uint64) *Waiting {
	return &Waiting{cluster: cluster, marks: map[mark]struct{}{}}
}

// Add adds the event of a letter. It keeps nothing of it.
func (w *Waiting) Add(l *cdc.Letter) {
	switch w.cluster {
	case 0:
		w.marks[markOfID(l.Event.ID)] = struct{}{}
	case l.History.SystemID:
		w.marks[markOfPlace(l.Event.CommitLSN, l.Event.Ordinal)] = struct{}{}
	}
}

// has reports whether an event, of which rec was made, is among them.
func (w *Waiting) has(ev *cdc.Event, rec *cdc.Record) bool {
	if w == nil || len(w.marks) == 0 {
		return false
	}
	m := markOfID(rec.ID)
	if w.cluster != 0 {
		m = markOfPlace(ev.Transaction.CommitLSN, ev.Ordinal)
	}
	_, ok := w.marks[m]
	return ok
}

func markOfPlace(lsn cdc.LSN, ordinal int64) (m mark) {
	binary.BigEndian.PutUint64(m[:8], uint64(lsn))
	binary.BigEndian.PutUint64(m[8:], uint64(ordinal))
	return m
}

func markOfID(id []byte) mark {
	sum := sha256.Sum256(id)
	return mark(sum[:len(mark{})])
}
