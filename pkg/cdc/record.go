package cdc

import (
	"sync"
	"time"
)

// Header is one header of a record. A nil Value is a null.
type Header struct {
	Key   string
	Value []byte
}

// NoTimestamp is the timestamp of a record that tells no time, which is Kafka's own word
// for it. A broker refuses one that is too far from its clock, and never this.
// https://github.com/apache/kafka/blob/trunk/clients/src/main/java/org/apache/kafka/common/record/RecordBatch.java
var NoTimestamp = time.UnixMilli(-1)

// Record is one message for the sink.
type Record struct {
	Topic      string
	Key, Value []byte // nil is a null
	Headers    []Header

	// Partition is where the record must go, or -1 to let the key decide.
	Partition int32

	// Timestamp is the record's time, or NoTimestamp; CommitTime is when its event was
	// committed, and what latency is measured from.
	Timestamp, CommitTime time.Time

	// ID is the outbox row's id as text. Nil is a row without one.
	ID []byte

	// CommitLSN and Ordinal say which event this is: the commit record of
	// its transaction, and its place in it, counted from 1.
	CommitLSN LSN
	Ordinal   int64

	// Buf is memory that belongs to the record, for what Key, Value,
	// Headers and ID point to.
	Buf []byte

	tx    *Tx    // the transaction that waits for it
	batch *batch // who waits for it, if it is of no transaction
}

// maxPooledBuf is the largest buffer that is kept for another record. Large
// payloads are rare, and keeping their buffers would hold memory for nothing.
const maxPooledBuf = 64 << 10

var records = sync.Pool{New: func() any { return new(Record) }}

// NewRecord returns an empty record, with whatever capacity an earlier one
// left in Buf and Headers.
func NewRecord() *Record {
	r := records.Get().(*Record)
	r.Partition = -1
	return r
}

// Free gives r back for NewRecord. The caller must hold the last reference to
// r, and to what its fields point to.
func (r *Record) Free() {
	buf, headers := r.Buf[:0], r.Headers[:0]
	if cap(buf) > maxPooledBuf {
		buf = nil
	}
	clear(r.Headers)
	*r = Record{Buf: buf, Headers: headers}
	records.Put(r)
}
