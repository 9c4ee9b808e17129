package cdc

import (
	"time"
	"unsafe"

	"github.com/walpost/walpost/internal/freelist"
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

const (
	// maxKept is how many bytes of records are kept for others. While a backlog is
	// published all are in use, and what is given back is taken again at once.
	maxKept = 8 << 20

	// maxKeptBuf is the largest buffer that is kept. Large payloads are rare, and
	// keeping their buffers would hold memory for nothing.
	maxKeptBuf = 64 << 10

	// smallBuf is the size of a buffer that is kept however little of it was used. Of
	// a larger one a quarter must have been, or small records would come to hold the
	// buffers of large ones.
	smallBuf = 2 << 10
)

var records = freelist.List[Record]{Max: maxKept}

// NewRecord returns an empty record, with whatever capacity an earlier one
// left in Buf and Headers.
func NewRecord() *Record {
	r := records.Get()
	if r == nil {
		r = new(Record)
	}
	r.Partition = -1
	return r
}

// Free gives r back for NewRecord. The caller must hold the last reference to
// r, and to what its fields point to.
func (r *Record) Free() {
	buf, headers := r.Buf[:0], r.Headers[:0]
	if cap(buf) > maxKeptBuf || cap(buf) > max(smallBuf, 4*len(r.Buf)) {
		buf = nil
	}
	clear(r.Headers)
	*r = Record{Buf: buf, Headers: headers}
	records.Put(r, int(unsafe.Sizeof(*r))+cap(buf)+cap(headers)*int(unsafe.Sizeof(Header{})))
}
