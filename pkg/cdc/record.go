package cdc

import (
	"slices"
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
	// Headers and ID point to. Room makes room in it.
	Buf []byte

	own  []byte    // what Buf is at first: no more than ownBuf
	lent [2][]byte // what else Buf is or was

	tx    *Tx    // the transaction that waits for it
	batch *batch // who waits for it, if it is of no transaction
}

const (
	// maxKept is how many bytes of records are kept for others, and of buffers. While a
	// backlog is published all are in use, and what is given back is taken again at once.
	maxKept = 8 << 20

	// ownBuf is the largest buffer that a record keeps to itself. Larger ones are lent,
	// or small records would come to hold the buffers of large ones.
	ownBuf = 2 << 10
)

var (
	records = freelist.List[Record]{Max: maxKept}
	buffers = freelist.Buffers{Max: maxKept}
)

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

// Room sees to it that n bytes can be appended to Buf without moving it. Where there is no
// room for them Buf becomes another, empty one; what points into the one before stays
// valid until Free.
func (r *Record) Room(n int) {
	switch {
	case n <= cap(r.Buf)-len(r.Buf):
		return
	case len(r.Buf) == 0 && n <= ownBuf && r.lent[0] == nil:
		r.own = slices.Grow([]byte(nil), n)
		r.Buf = r.own
		return
	}
	r.Buf = buffers.Get(n)
	for i := range r.lent {
		if r.lent[i] == nil {
			r.lent[i] = r.Buf
			return
		}
	} // beyond two it is the collector's
}

// Free gives r back for NewRecord. The caller must hold the last reference to
// r, and to what its fields point to.
func (r *Record) Free() {
	for _, buf := range r.lent {
		buffers.Put(buf)
	}
	own, headers := r.own, r.Headers[:0]
	clear(r.Headers)
	*r = Record{Buf: own, own: own, Headers: headers}
	records.Put(r, int(unsafe.Sizeof(*r))+cap(own)+cap(headers)*int(unsafe.Sizeof(Header{})))
}
