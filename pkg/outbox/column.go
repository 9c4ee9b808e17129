package outbox

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/pkg/cdc"
)

// kind is how the values of a type are printed.
type kind byte

const (
	// Printed as Postgres does.
	other kind = iota // the binary form is not known
	text              // the same in both forms
	jsonb             // text behind a version byte
	int2
	int4
	int8
	oid
	uuidType

	// Printed in another way.
	boolean
	bytea
	date
	timestamp
	timestamptz

	// Printed in another way, and not read in binary.
	float4
	float8
	numeric // of a fixed scale
	scaled  // a numeric of none
	money
	bits
	clock      // a time of day
	zonedClock // with a time zone
	interval
	point
	array
)

var kinds = map[uint32]kind{
	pgtype.TextOID: text, pgtype.VarcharOID: text, pgtype.BPCharOID: text, pgtype.NameOID: text,
	pgtype.JSONOID: text, pgtype.XMLOID: text, pgtype.JSONBOID: jsonb,
	pgtype.BoolOID: boolean, pgtype.Int2OID: int2, pgtype.Int4OID: int4, pgtype.Int8OID: int8, pgtype.OIDOID: oid,
	pgtype.UUIDOID: uuidType, pgtype.ByteaOID: bytea,
	pgtype.DateOID: date, pgtype.TimestampOID: timestamp, pgtype.TimestamptzOID: timestamptz,
	pgtype.TimeOID: clock, pgtype.TimetzOID: zonedClock, pgtype.IntervalOID: interval,
	pgtype.Float4OID: float4, pgtype.Float8OID: float8, pgtype.NumericOID: scaled, moneyOID: money,
	pgtype.BitOID: bits, pgtype.VarbitOID: bits, pgtype.PointOID: point,
}

// moneyOID is pg_type's number of money, which the driver has no name for.
const moneyOID = 790

// kindOf returns the kind of a type in pg_type. Left out on purpose: "char", whose text
// form differs between versions of Postgres.
func kindOf(typ uint32, modifier int32) kind {
	k := kinds[typ]
	switch {
	case k == scaled && modifier >= 0:
		return numeric
	case elementOf(typ) != 0:
		return array
	}
	return k
}

// BinarySafe reports whether a [Router] makes the same bytes of the binary form
// of a type in pg_type as of its text form. A source may ask for binary values
// only if it holds for every published column that the router reads; to ask for
// all columns of the table is simpler, and safe.
func BinarySafe(typ uint32) bool {
	k := kindOf(typ, -1)
	return k != other && k <= timestamptz
}

// column is a column of a relation, and how it is printed.
type column struct {
	index    int // in the relation; -1 for no column
	kind     kind
	verbatim bool // what is printed is the text form
	modifier int32
	form     form
	element  *column // of an array, in JSON
}

// form is where a column goes, which some types are printed by.
type form byte

const (
	rawForm    form = iota // a key or a value
	headerForm             // as SimpleHeaderConverter does
	jsonForm               // as JsonConverter does
)

func newColumn(index int, c cdc.Column, f form) column {
	k := kindOf(c.Type, c.Modifier)
	col := column{index: index, kind: k, modifier: c.Modifier, form: f}
	col.verbatim = f != jsonForm && k < boolean || f == rawForm && (k == scaled || k == point || k == array)
	if k == array {
		element := newColumn(index, cdc.Column{Type: elementOf(c.Type), Modifier: c.Modifier}, f)
		col.element = &element
	}
	return col
}

// maxPrinted is the length of the longest value that is not a copy of its data:
// a uuid.
const maxPrinted = 36

// maxAround is the length of the longest value of no data: a point of two short numbers.
const maxAround = 128

// bound returns what append will append at most.
func (c *column) bound(v *cdc.Value) int {
	n := len(v.Data)
	if c.form != rawForm && c.kind == bytea {
		n += base64.StdEncoding.EncodedLen(n)
	}
	if c.kind > timestamptz { // the longest that JSON makes of a character, and what is around it
		n = 6*n + maxAround
	}
	return max(n, maxPrinted)
}

var errUnchanged = errors.New("the value of an inserted row is marked as unchanged")

// append appends the value as Debezium prints it. v must not be NULL.
func (c *column) append(dst []byte, v *cdc.Value) ([]byte, error) {
	if c.form == jsonForm {
		return c.appendJSON(dst, v)
	}
	if c.verbatim && v.Format == cdc.Text || c.kind == text {
		return append(dst, v.Data...), nil
	}
	return c.print(dst, v)
}

// print appends the value as text.
func (c *column) print(dst []byte, v *cdc.Value) ([]byte, error) {
	if c.kind > timestamptz {
		return c.printText(dst, v)
	}
	switch c.kind {
	case text:
		return append(dst, v.Data...), nil
	case bytea:
		return c.appendBytea(dst, v)
	case date:
		days, err := readDays(v)
		return appendDays(dst, days), err
	case timestamp:
		m, err := readMicros(v)
		return appendUnix(dst, m, c.modifier), err
	case timestamptz:
		m, err := readMicros(v)
		return appendISO(dst, m, c.modifier), err
	case boolean:
		return appendBool(dst, v)
	}
	if v.Format == cdc.Text {
		return append(dst, v.Data...), nil
	}
	return c.appendBinary(dst, v.Data)
}

// printText appends the value of a type that is read as text only.
func (c *column) printText(dst []byte, v *cdc.Value) ([]byte, error) {
	if v.Format != cdc.Text {
		return dst, errBinary
	}
	switch c.kind {
	case float4:
		return appendJavaFloat(dst, v.Data, 32)
	case float8:
		return appendJavaFloat(dst, v.Data, 64)
	case money:
		return appendMoney(dst, v.Data)
	case scaled:
		if c.form == headerForm && isNaN(v.Data) {
			return append(dst, v.Data...), nil // Debezium has NULL
		}
		return appendScaledDecimal(dst, v.Data)
	case bits:
		if c.modifier == 1 {
			return append(dst, printedBool(len(v.Data) > 0 && v.Data[0] == '1')...), nil
		}
		return base64.StdEncoding.AppendEncode(dst, bitBytes(v.Data)), nil
	case clock:
		return appendClock(dst, v.Data, c.modifier)
	case zonedClock:
		return appendZonedClock(dst, v.Data)
	case interval:
		return appendInterval(dst, v.Data)
	case point:
		return appendPoint(dst, v.Data)
	case array:
		return c.appendArray(dst, v.Data)
	}
	return append(dst, v.Data...), nil // a numeric
}

var errBinary = errors.New("the binary form of the type is not known")

func printedBool(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// appendBinary appends the text form of data.
func (c *column) appendBinary(dst, data []byte) ([]byte, error) {
	switch {
	case c.kind == int2 && len(data) == 2:
		return strconv.AppendInt(dst, int64(int16(binary.BigEndian.Uint16(data))), 10), nil
	case c.kind == int4 && len(data) == 4:
		return strconv.AppendInt(dst, int64(int32(binary.BigEndian.Uint32(data))), 10), nil
	case c.kind == int8 && len(data) == 8:
		return strconv.AppendInt(dst, int64(binary.BigEndian.Uint64(data)), 10), nil
	case c.kind == oid && len(data) == 4:
		return strconv.AppendUint(dst, uint64(binary.BigEndian.Uint32(data)), 10), nil
	case c.kind == uuidType && len(data) == 16:
		return appendUUID(dst, data), nil
	case c.kind == jsonb && len(data) > 0 && data[0] == 1:
		return append(dst, data[1:]...), nil
	case c.kind == jsonb:
		return dst, errors.New("the binary form of jsonb is not of version 1")
	case c.kind == other:
		return dst, errBinary
	}
	return dst, errNotBinary
}

func appendUUID(dst, data []byte) []byte {
	dst = append(hex.AppendEncode(dst, data[:4]), '-')
	dst = append(hex.AppendEncode(dst, data[4:6]), '-')
	dst = append(hex.AppendEncode(dst, data[6:8]), '-')
	dst = append(hex.AppendEncode(dst, data[8:10]), '-')
	return hex.AppendEncode(dst, data[10:])
}

func appendBool(dst []byte, v *cdc.Value) ([]byte, error) {
	switch string(v.Data) {
	case "t", "\x01":
		return append(dst, "true"...), nil
	case "f", "\x00":
		return append(dst, "false"...), nil
	}
	return dst, errors.New("not a boolean")
}

// appendBytea appends the bytes, or base64 of them.
func (c *column) appendBytea(dst []byte, v *cdc.Value) ([]byte, error) {
	if c.form == headerForm && v.Format == cdc.Binary {
		return base64.StdEncoding.AppendEncode(dst, v.Data), nil
	}
	start := len(dst)
	dst, err := appendBytes(dst, v)
	if err != nil || c.form != headerForm {
		return dst, err
	}
	end := len(dst)
	dst = base64.StdEncoding.AppendEncode(dst, dst[start:])
	n := copy(dst[start:], dst[end:])
	return dst[:start+n], nil
}

// appendBytes appends the bytes of a bytea, whose text form is hexadecimal, or
// of the older escape format where bytea_output says so.
// https://www.postgresql.org/docs/current/datatype-binary.html
func appendBytes(dst []byte, v *cdc.Value) ([]byte, error) {
	if v.Format == cdc.Binary {
		return append(dst, v.Data...), nil
	}
	digits, ok := bytes.CutPrefix(v.Data, []byte(`\x`))
	if !ok {
		return appendEscaped(dst, v.Data)
	}
	dst, err := hex.AppendDecode(dst, digits)
	if err != nil {
		return dst, fmt.Errorf("decode the hex format of bytea: %w", err)
	}
	return dst, nil
}

var errEscape = errors.New("decode the escape format of bytea: want two backslashes, or one and three octal digits")

func appendEscaped(dst, s []byte) ([]byte, error) {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\':
			dst = append(dst, s[i])
		case i+1 < len(s) && s[i+1] == '\\':
			dst = append(dst, '\\')
			i++
		case i+3 < len(s):
			n, err := strconv.ParseUint(string(s[i+1:i+4]), 8, 8)
			if err != nil {
				return dst, errEscape
			}
			dst = append(dst, byte(n))
			i += 3
		default:
			return dst, errEscape
		}
	}
	return dst, nil
}

// readInt4 reads an integer column.
func readInt4(v *cdc.Value) (int32, error) {
	if v.Format == cdc.Text {
		n, err := strconv.ParseInt(string(v.Data), 10, 32)
		return int32(n), err
	}
	if len(v.Data) != 4 {
		return 0, errNotBinary
	}
	return int32(binary.BigEndian.Uint32(v.Data)), nil
}
