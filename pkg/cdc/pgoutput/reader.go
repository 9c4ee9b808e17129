package pgoutput

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// SyntaxError says that bytes are not a message as the protocol has it.
type SyntaxError struct {
	Kind   Kind
	Offset int // of the field that is wrong, from the message's first byte
	Reason string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("decode %s at byte %d: %s", e.Kind, e.Offset, e.Reason)
}

// reader takes a message apart. The first field that is wrong is kept as the
// error; from then on every field reads as zero.
type reader struct {
	kind     Kind
	streamed bool // the message came in a stream block
	size     int
	rest     []byte
	err      *SyntaxError
}

// newReader returns a reader of what follows the first byte.
func newReader(data []byte) reader {
	if len(data) == 0 {
		return reader{err: &SyntaxError{Reason: "empty message"}}
	}
	return reader{kind: Kind(data[0]), size: len(data), rest: data[1:]}
}

func (r *reader) offset() int { return r.size - len(r.rest) }

// fail keeps an error at offset, unless there is one, and drops the rest.
func (r *reader) fail(offset int, format string, args ...any) {
	if r.err == nil {
		r.err = &SyntaxError{Kind: r.kind, Offset: offset, Reason: fmt.Sprintf(format, args...)}
	}
	r.rest = nil
}

// short fails for want of n bytes. It is kept out of line so that its callers
// are not.
//
//go:noinline
func (r *reader) short(n int) {
	r.fail(r.offset(), "want %d bytes, have %d", n, len(r.rest))
}

// finish returns the error, if any, and makes one of trailing bytes.
func (r *reader) finish() error {
	if len(r.rest) > 0 {
		r.fail(r.offset(), "%d trailing bytes", len(r.rest))
	}
	if r.err == nil {
		return nil
	}
	return r.err
}

func (r *reader) uint8() (v uint8) {
	if len(r.rest) >= 1 {
		v, r.rest = r.rest[0], r.rest[1:]
	} else {
		r.short(1)
	}
	return v
}

func (r *reader) uint16() (v uint16) {
	if len(r.rest) >= 2 {
		v, r.rest = binary.BigEndian.Uint16(r.rest), r.rest[2:]
	} else {
		r.short(2)
	}
	return v
}

func (r *reader) uint32() (v uint32) {
	if len(r.rest) >= 4 {
		v, r.rest = binary.BigEndian.Uint32(r.rest), r.rest[4:]
	} else {
		r.short(4)
	}
	return v
}

func (r *reader) uint64() (v uint64) {
	if len(r.rest) >= 8 {
		v, r.rest = binary.BigEndian.Uint64(r.rest), r.rest[8:]
	} else {
		r.short(8)
	}
	return v
}

func (r *reader) lsn() cdc.LSN { return cdc.LSN(r.uint64()) }

func (r *reader) time() time.Time { return fromMicroseconds(r.uint64()) }

// epoch is what Postgres counts time from, 2000-01-01 UTC, in Unix seconds.
const epoch = 946684800

// fromMicroseconds returns the time that the server writes as v. The epoch is
// added to the seconds, since added to the microseconds it might not fit.
func fromMicroseconds(v uint64) time.Time {
	us := int64(v)
	return time.Unix(epoch+us/1e6, us%1e6*1e3).UTC()
}

// xid reads a transaction's ID, which is never zero.
func (r *reader) xid() uint32 {
	at := r.offset()
	xid := r.uint32()
	if xid == 0 {
		r.fail(at, "transaction ID is zero")
	}
	return xid
}

// changeXID reads the transaction's ID that a change has in a stream block. It
// is zero elsewhere.
func (r *reader) changeXID() uint32 {
	if !r.streamed {
		return 0
	}
	return r.xid()
}

// noFlags reads flags that have no meaning yet.
func (r *reader) noFlags() {
	at := r.offset()
	if flags := r.uint8(); flags != 0 {
		r.fail(at, "unknown flags %#x", flags)
	}
}

// bool reads a byte that is 0 or 1.
func (r *reader) bool() bool {
	at := r.offset()
	v := r.uint8()
	if v > 1 {
		r.fail(at, "want 0 or 1, have %d", v)
	}
	return v == 1
}

// cstring reads a zero-terminated string, without the zero.
func (r *reader) cstring() []byte {
	n := bytes.IndexByte(r.rest, 0)
	if n < 0 {
		r.fail(r.offset(), "unterminated string")
		return nil
	}
	s := r.rest[:n:n]
	r.rest = r.rest[n+1:]
	return s
}

// namespace reads a schema's name, which is empty for pg_catalog.
func (r *reader) namespace() string {
	name := r.cstring()
	if len(name) == 0 {
		return "pg_catalog"
	}
	return string(name)
}

// counted reads bytes behind their length, which the protocol has signed.
func (r *reader) counted() []byte {
	at := r.offset()
	n := int(int32(r.uint32()))
	if n < 0 || n > len(r.rest) {
		r.fail(at, "length %d, with %d bytes left", n, len(r.rest))
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// count checks that n elements of at least size bytes can follow, so that
// no memory is taken for what is only claimed.
func (r *reader) count(n uint32, size int) int {
	if uint64(n) > uint64(len(r.rest)/size) {
		r.fail(r.offset(), "%d elements, with %d bytes left", n, len(r.rest))
		return 0
	}
	return int(n)
}

// tuple reads a row into the memory of buf. Most of the time of decoding is
// spent here, so the loop keeps its place in a local variable.
func (r *reader) tuple(buf []cdc.Value) []cdc.Value {
	n := r.count(uint32(r.uint16()), 1)
	values := slices.Grow(buf[:0], n)[:n]
	rest := r.rest
	for i := range values {
		size := valueSize(rest)
		if size == 0 {
			r.rest = rest
			r.failValue()
			return values[:i]
		}
		v := &values[i]
		v.Format, v.Data = cdc.Format(rest[0]), nil
		if size >= valueHeader {
			v.Data = rest[valueHeader:size:size]
		}
		rest = rest[size:]
	}
	r.rest = rest
	return values
}

// valueHeader is the size of the format and the length before a value's data.
// Values without data have the format alone.
const valueHeader = 1 + 4

// valueSize returns the size of the value that b begins with, or zero if there
// is none.
func valueSize(b []byte) int {
	if len(b) > 0 && (b[0] == byte(cdc.Null) || b[0] == byte(cdc.Unchanged)) {
		return 1
	}
	if len(b) < valueHeader || (b[0] != byte(cdc.Text) && b[0] != byte(cdc.Binary)) {
		return 0
	}
	n := binary.BigEndian.Uint32(b[1:])
	if uint64(n) > uint64(len(b)-valueHeader) {
		return 0
	}
	return valueHeader + int(n)
}

// failValue says why valueSize found no value.
func (r *reader) failValue() {
	at := r.offset()
	format := r.uint8()
	switch cdc.Format(format) {
	case cdc.Text, cdc.Binary:
		r.counted()
	default:
		r.fail(at, "unknown format %q", rune(format))
	}
}

// tag reads the byte that says which tuple follows, one of want.
func (r *reader) tag(want string) byte {
	at := r.offset()
	tag := r.uint8()
	if strings.IndexByte(want, tag) < 0 {
		r.fail(at, "unknown tuple %q", rune(tag))
	}
	return tag
}
