package cdc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrFenced is returned by a [Store] when another process has acquired the
// checkpoint, and by a transactional one also when the cluster has ended the open
// transaction for another reason: its Load tells the epoch.
var ErrFenced = errors.New("checkpoint is owned by another process")

// ErrSkip is what [Config.Route] returns for an event that is not to be published. It
// counts as handed over and acknowledged.
var ErrSkip = errors.New("event is not to be published")

// ErrWait is what a transactional sink's Produce may return in place of a wait; see [Sink].
var ErrWait = errors.New("kafka transaction is to be committed before a wait")

// ErrAnotherLog is what a [LetterLog] returns when the log was deleted and created again.
var ErrAnotherLog = errors.New("the dead-letter topic was deleted and created again")

// RefusedError is a failure that trying again cannot mend: somebody must change
// something first. Hint says what, in one line.
type RefusedError struct {
	Err  error
	Hint string
}

// Refuse returns a [RefusedError] with a message made as by [fmt.Errorf].
func Refuse(hint, format string, args ...any) error {
	return &RefusedError{Err: fmt.Errorf(format, args...), Hint: hint}
}

// StartAnew is the end of a hint for a saved position that means nothing any more: it makes the
// next start go by the slot's own.
const StartAnew = "run walpost checkpoint set LSN --force with the slot's confirmed_flush_lsn (with exactly-once, whose position is in Kafka, take another slot)"

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// OneLine is the text of an error for a log or a terminal, without the lines that
// repeat: one that could not connect has a line for each address and way.
func OneLine(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, " ")
}

// PoisonError says that a row can never be published as it is.
type PoisonError struct {
	Reason PoisonReason
	Err    error

	// Missing names, with commas between them, the parts of the record that
	// could not be read: key, value, timestamp, partition or a header. The
	// topic is not named: a record without one is not changed by that.
	Missing string

	// The row, filled in by the [Pipeline].
	Table     string
	ID        string
	Topic     string
	CommitLSN LSN
	Ordinal   int64
}

// PoisonReason is why a row is poison. It is short, and a metric's label.
type PoisonReason string

// The reasons for which a row is poison.
const (
	PoisonKey      PoisonReason = "key"      // missing, NULL or of a type that makes no key
	PoisonTopic    PoisonReason = "topic"    // no route, or not a legal topic name
	PoisonRow      PoisonReason = "row"      // another column is missing or unusable
	PoisonOversize PoisonReason = "oversize" // larger than the topic takes
	PoisonRefused  PoisonReason = "refused"  // refused by the broker for good
)

// PoisonReasons are all of them.
var PoisonReasons = []PoisonReason{PoisonKey, PoisonTopic, PoisonRow, PoisonOversize, PoisonRefused}

// noReasons counts nothing for each reason.
func noReasons() map[PoisonReason]int64 {
	m := map[PoisonReason]int64{}
	for _, r := range PoisonReasons {
		m[r] = 0
	}
	return m
}

// Poison returns a [PoisonError] with a message made as by [fmt.Errorf].
func Poison(reason PoisonReason, format string, args ...any) error {
	return &PoisonError{Reason: reason, Err: fmt.Errorf(format, args...)}
}

func (e *PoisonError) Error() string {
	if e.CommitLSN == 0 {
		return e.Err.Error()
	}
	id := e.ID
	if id == "" {
		id = "unknown"
	}
	s := fmt.Sprintf("publish row %d of the transaction committed at %s, id %s", e.Ordinal, e.CommitLSN, id)
	if e.Table != "" {
		s += ", table " + e.Table
	}
	if e.Topic != "" {
		s += ", topic " + e.Topic
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *PoisonError) Unwrap() error { return e.Err }
