// Package deadletter is the format of the dead-letter topic: a [cdc.Letter] to a
// record, and back.
//
// An event is there with its key, value and headers as they were to be published,
// followed by headers of ours, which begin with [HeaderKind]. All else is a record
// without a key whose value is JSON.
package deadletter

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// The headers of a letter. HeaderKind is the first of them; those after HeaderTime
// are an event's, and are left out where they would be empty.
const (
	HeaderKind       = "walpost-dlq-kind"        // a cdc.LetterKind: dead, parked, claim, progress, settled, request or answer
	HeaderSlot       = "walpost-dlq-slot"        // whose letter it is
	HeaderOwner      = "walpost-dlq-owner"       // the instance that wrote it
	HeaderTime       = "walpost-dlq-time"        // when it was written
	HeaderReason     = "walpost-dlq-reason"      // why the event can not be published, in a word
	HeaderError      = "walpost-dlq-error"       // and in a sentence
	HeaderMissing    = "walpost-dlq-missing"     // parts of the row that could not be read, with commas between them
	HeaderTopic      = "walpost-dlq-topic"       // where it was to be published
	HeaderTable      = "walpost-dlq-table"       // where it was written
	HeaderID         = "walpost-dlq-id"          // the row's id
	HeaderSystem     = "walpost-dlq-system"      // the database cluster's id
	HeaderTimeline   = "walpost-dlq-timeline"    // and its timeline
	HeaderLSN        = "walpost-dlq-lsn"         // where the row's transaction was committed
	HeaderOrdinal    = "walpost-dlq-ordinal"     // the row's place in it, from 1
	HeaderCommitTime = "walpost-dlq-commit-time" // when it was committed
	HeaderTimestamp  = "walpost-dlq-timestamp"   // the timestamp that the record was to have
	HeaderPartition  = "walpost-dlq-partition"   // the partition that it was to go to, if the row says so
)

// Partition is the one that all letters are in: they need one order.
const Partition = 0

// maxError bounds what is kept of an error's text, in bytes.
const maxError = 2000

// Encode makes the dead-letter topic's record of l in r, ready for the sink. If l
// has an Event that is r itself, whose key, value and headers stay as they are. The
// record tells no time but in its headers: a broker may refuse one that is far from
// its own clock.
func Encode(topic string, l *cdc.Letter, r *cdc.Record) {
	if l.Event == nil {
		r.Value = body(l)
	}
	e := encoder{r}
	e.text(HeaderKind, string(l.Kind))
	e.text(HeaderSlot, l.Slot)
	e.some(HeaderOwner, l.Owner)
	e.time(HeaderTime, l.Time)
	if l.Event != nil {
		e.event(l)
	}
	r.Topic, r.Partition, r.Timestamp = topic, Partition, cdc.NoTimestamp
	if r.CommitTime.IsZero() {
		r.CommitTime = l.Time
	}
}

// body returns the JSON of a letter that is no event.
func body(l *cdc.Letter) []byte {
	var v any
	switch l.Kind {
	case cdc.LetterSettled, cdc.LetterProgress:
		v = l.Settled
	case cdc.LetterRequest:
		v = l.Request
	case cdc.LetterAnswer:
		v = l.Answer
	default:
		return []byte("{}")
	}
	data, err := json.Marshal(v)
	if err != nil {
		panic("cdc: a letter that is no JSON: " + err.Error())
	}
	return data
}

type encoder struct{ r *cdc.Record }

func (e encoder) text(name, value string) {
	e.r.Headers = append(e.r.Headers, cdc.Header{Key: name, Value: []byte(value)})
}

func (e encoder) some(name, value string) {
	if value != "" {
		e.text(name, value)
	}
}

func (e encoder) time(name string, t time.Time) {
	if !t.IsZero() {
		e.text(name, t.UTC().Format(time.RFC3339Nano))
	}
}

func (e encoder) event(l *cdc.Letter) {
	r := e.r
	e.some(HeaderReason, string(l.Reason))
	e.some(HeaderError, l.Error[:min(len(l.Error), maxError)])
	e.some(HeaderMissing, l.Missing)
	e.some(HeaderTopic, r.Topic)
	e.some(HeaderTable, l.Table)
	if r.ID != nil {
		e.text(HeaderID, string(r.ID))
	}
	e.text(HeaderSystem, strconv.FormatUint(l.History.SystemID, 10))
	e.text(HeaderTimeline, strconv.FormatUint(uint64(l.History.Timeline), 10))
	e.text(HeaderLSN, r.CommitLSN.String())
	e.text(HeaderOrdinal, strconv.FormatInt(r.Ordinal, 10))
	e.time(HeaderCommitTime, r.CommitTime)
	e.time(HeaderTimestamp, r.Timestamp)
	if r.Partition >= 0 {
		e.text(HeaderPartition, strconv.Itoa(int(r.Partition)))
	}
}

var errForeign = errors.New("no header " + HeaderKind)

// Decode reads a record of the dead-letter topic. The letter's Event shares the
// record's memory. An error is a record that Encode has not made.
func Decode(r *cdc.Record) (*cdc.Letter, error) {
	first := len(r.Headers) - 1
	for first >= 0 && r.Headers[first].Key != HeaderKind {
		first--
	}
	if first < 0 {
		return nil, errForeign
	}
	d := decoder{of: map[string][]byte{}}
	for _, h := range r.Headers[first:] {
		d.of[h.Key] = h.Value
	}
	l := &cdc.Letter{Kind: cdc.LetterKind(d.of[HeaderKind]), Slot: string(d.of[HeaderSlot]), Owner: string(d.of[HeaderOwner]), Time: d.time(HeaderTime)}
	var err error
	switch l.Kind {
	case cdc.LetterClaim:
	case cdc.LetterDead, cdc.LetterParked:
		d.event(l, r, first)
	case cdc.LetterSettled, cdc.LetterProgress:
		l.Settled = new(cdc.Settled)
		err = json.Unmarshal(r.Value, l.Settled)
	case cdc.LetterRequest:
		l.Request = new(cdc.Request)
		err = json.Unmarshal(r.Value, l.Request)
	case cdc.LetterAnswer:
		l.Answer = new(cdc.Answer)
		err = json.Unmarshal(r.Value, l.Answer)
	default:
		err = errors.New("unknown kind")
	}
	if err = errors.Join(d.err, err); err != nil {
		return nil, fmt.Errorf("read letter of kind %.20q: %w", l.Kind, err)
	}
	return l, nil
}

type decoder struct {
	of  map[string][]byte
	err error // the first
}

func (d *decoder) note(name string, err error) {
	if err != nil && d.err == nil {
		d.err = fmt.Errorf("header %s: %w", name, err)
	}
}

func (d *decoder) time(name string) time.Time {
	v, ok := d.of[name]
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, string(v))
	d.note(name, err)
	return t
}

func (d *decoder) number(name string, bits int) int64 {
	n, err := strconv.ParseInt(string(d.of[name]), 10, bits)
	d.note(name, err)
	return n
}

func (d *decoder) event(l *cdc.Letter, r *cdc.Record, first int) {
	l.Reason, l.Error, l.Missing = cdc.PoisonReason(d.of[HeaderReason]), string(d.of[HeaderError]), string(d.of[HeaderMissing])
	l.Table = string(d.of[HeaderTable])
	var err error
	l.History.SystemID, err = strconv.ParseUint(string(d.of[HeaderSystem]), 10, 64)
	d.note(HeaderSystem, err)
	timeline, err := strconv.ParseUint(string(d.of[HeaderTimeline]), 10, 32)
	d.note(HeaderTimeline, err)
	l.History.Timeline = uint32(timeline)

	ev := cdc.NewRecord()
	ev.Topic, ev.Key, ev.Value, ev.Headers = string(d.of[HeaderTopic]), r.Key, r.Value, r.Headers[:first:first]
	ev.ID = d.of[HeaderID]
	ev.CommitLSN, err = cdc.ParseLSN(string(d.of[HeaderLSN]))
	d.note(HeaderLSN, err)
	ev.Ordinal = d.number(HeaderOrdinal, 64)
	ev.CommitTime, ev.Timestamp = d.time(HeaderCommitTime), d.time(HeaderTimestamp)
	if _, ok := d.of[HeaderPartition]; ok {
		ev.Partition = int32(d.number(HeaderPartition, 32))
	}
	l.Event = ev
}
