package cdc

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// DeadLetters says where poison goes, and what must wait behind it: a topic that
// is a log of [Letter]s, in one partition, so that it has one order. All fields are
// required.
type DeadLetters struct {
	Topic string

	// Slot is whose letters these are. Those of other slots are passed over.
	Slot string

	// Log reads the topic.
	Log LetterLog

	// Max is how many dead letters may be open, and MaxParked how many events
	// may be parked behind them. At that many nothing more is taken that would
	// have to join them, until some are retried or discarded. A parked event
	// takes no memory, but a start reads all of them, and a retry remembers
	// some 20 bytes of each of its own. Zero is no limit.
	Max, MaxParked int

	// Encode makes r the topic's record for l, ready for the sink. If l has an
	// Event, that is r.
	Encode func(l *Letter, r *Record)

	// Decode reads a record of the topic. An error says that it is none of
	// ours.
	Decode func(*Record) (*Letter, error)
}

// LetterLog reads the partition that letters are in.
type LetterLog interface {
	// Fetch returns records from the offset from on, in order. If there are
	// none it waits for one, also through an outage, until ctx is done. The
	// records are the caller's. What was trimmed is passed over. If the log is another
	// one than in the last call, it returns [ErrAnotherLog], once.
	Fetch(ctx context.Context, from int64) ([]Logged, error)

	// Trim forgets what lies before an offset.
	Trim(ctx context.Context, before int64) error
}

// Logged is a record and its place in the log.
type Logged struct {
	*Record
	Offset int64
}

// LetterKind says what a letter is.
type LetterKind string

// The kinds of letters.
const (
	LetterClaim    LetterKind = "claim"    // an instance begins to write; what earlier ones write later is void
	LetterDead     LetterKind = "dead"     // an event that could not be published
	LetterParked   LetterKind = "parked"   // an event that waits behind one of its key and topic
	LetterProgress LetterKind = "progress" // how far a lot was dealt with in the transactions so far
	LetterSettled  LetterKind = "settled"  // what became of a lot
	LetterRequest  LetterKind = "request"  // an operator asks for something
	LetterAnswer   LetterKind = "answer"   // it was carried out
)

// Letter is one record of the dead-letter topic.
type Letter struct {
	Kind   LetterKind
	Slot   string
	Owner  string // the instance that wrote it; empty for a request
	Time   time.Time
	Offset int64 // where it lies in the log, once it was read from there

	// Event is the event of LetterDead and LetterParked as it was to be
	// published, with its intended topic; so are the fields after it.
	Event   *Record
	History Position // where Event.CommitLSN is a position; its LSN is not used
	Table   string
	Reason  PoisonReason // LetterDead only, as are the rest of them
	Error   string
	Missing string // parts of the record that could not be read, see [PoisonError]

	Settled *Settled // LetterSettled and LetterProgress
	Request *Request // LetterRequest
	Answer  *Answer  // LetterAnswer

	anchor int64 // LetterRequest: from where the log must be kept for it, see [Lots]
}

// DeadLetter is an event that could not be published.
type DeadLetter struct {
	Offset   int64        `json:"offset"` // in the log; negative if not known
	ID       string       `json:"id"`     // the row's; empty if it has none
	Position              // of its commit record
	Ordinal  int64        `json:"ordinal"`
	Table    string       `json:"table"`
	Reason   PoisonReason `json:"reason"`
	Error    string       `json:"error"`
	Time     time.Time    `json:"time"` // when it was found to be dead
}

// Lot is a dead letter and what waits behind it: events of one key and topic.
type Lot struct {
	Topic  string     `json:"topic"` // intended; empty if it could not be told
	Key    []byte     `json:"key"`   // nil: the row has no order, and nothing waits for it
	Dead   DeadLetter `json:"dead"`
	Parked int        `json:"parked"` // those that came again after a crash count again

	newest rowPlace // of the last event that was put here
	upto   int64    // offset of the last event that was dealt with
}

// rowPlace is where a row was committed.
type rowPlace struct {
	Position
	ordinal int64
}

// Settled says what became of a lot.
type Settled struct {
	Topic string `json:"topic"`
	Key   []byte `json:"key"`

	// Offset is where the dead letter lies. It tells lots without a key apart.
	Offset int64 `json:"offset"`

	// Dead is the event that is dead now, and Parked how many wait behind it.
	// Nil is a lot that is empty: its key is free.
	Dead   *DeadLetter `json:"dead,omitempty"`
	Parked int         `json:"parked"`

	// Upto is, in LetterProgress, the offset of the last of its events that
	// was published or discarded. The lot is still there.
	Upto int64 `json:"upto,omitempty"`
}

// Action is what an operator asks for.
type Action string

// The actions.
const (
	Retry   Action = "retry"   // publish the dead letter and what is parked behind it
	Discard Action = "discard" // drop the dead letter and publish what is parked behind it
)

// Request asks for something to be done with lots whose dead letter lies before
// the request. One of ID, Key and All says which.
type Request struct {
	ID     string `json:"id"` // the request's own
	Action Action `json:"action"`

	Letter string `json:"letter,omitempty"` // the dead event's id, see [Lot.Is]
	Key    []byte `json:"key"`
	All    bool   `json:"all,omitempty"`

	Topic      string `json:"topic,omitempty"`       // only lots with this intended topic
	To         string `json:"to,omitempty"`          // Retry: publish there instead of the intended topic
	WithParked bool   `json:"with_parked,omitempty"` // Discard: drop what was parked before the request, too
}

// Answer says what became of a request.
type Answer struct {
	Request   string `json:"request"`
	Lots      int    `json:"lots"`      // that were asked for
	Published int    `json:"published"` // events
	Discarded int    `json:"discarded"` // events
	Freed     int    `json:"freed"`     // lots

	// StillDead are lots whose event failed again, at most some of them;
	// Failed is how many.
	Failed    int   `json:"failed"`
	StillDead []Lot `json:"still_dead,omitempty"`
}

// Name is what an operator calls a dead letter: the row's id, or else its place
// as in 16/B374D848-2.
func (d *DeadLetter) Name() string { return cmp.Or(d.ID, d.place()) }

func (d *DeadLetter) place() string { return fmt.Sprintf("%s-%d", d.LSN, d.Ordinal) }

// precededBy reports whether an event of the same history comes before d. Positions
// of two timelines of one cluster are compared all the same: they agree but for
// what a failover has lost.
func (d *DeadLetter) precededBy(history Position, lsn LSN, ordinal int64) bool {
	return history.SystemID == d.SystemID && (lsn < d.LSN || lsn == d.LSN && ordinal < d.Ordinal)
}

// Is reports whether name is that of the lot's dead letter: the row's id, or its
// place as in 16/B374D848-2.
func (l *Lot) Is(name string) bool {
	return name != "" && (name == l.Dead.ID || name == l.Dead.place())
}

// Wants reports whether the request is about the lot.
func (r *Request) Wants(l *Lot) bool {
	if r.Topic != "" && r.Topic != l.Topic {
		return false
	}
	return r.All || l.Is(r.Letter) || r.Key != nil && l.Key != nil && string(r.Key) == string(l.Key)
}
