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
)

// kindOf returns the kind of a type in pg_type. Left out on purpose: "char",
// whose text form differs between versions of Postgres, and floating-point
// numbers, of which each printer has its own idea.
func kindOf(typ uint32) kind {
	switch typ {
	case pgtype.TextOID, pgtype.VarcharOID, pgtype.BPCharOID, pgtype.NameOID, pgtype.JSONOID, pgtype.XMLOID:
		return text
	case pgtype.JSONBOID:
		return jsonb
	case pgtype.BoolOID:
		return boolean
	case pgtype.Int2OID:
		return int2
	case pgtype.Int4OID:
		return int4
	case pgtype.Int8OID:
		return int8
	case pgtype.OIDOID:
		return oid
	case pgtype.UUIDOID:
		return uuidType
	case pgtype.ByteaOID:
		return bytea
	case pgtype.DateOID:
		return date
	case pgtype.TimestampOID:
		return timestamp
	case pgtype.TimestamptzOID:
		return timestamptz
	}
	return other
}

// BinarySafe reports whether a [Router] makes the same bytes of the binary form
// of a type in pg_type as of its text form. A source may ask for binary values
// only if it holds for every published column that the router reads; to ask for
// all columns of the table is simpler, and safe.
func BinarySafe(typ uint32) bool { return kindOf(typ) != other }

// column is a column of a relation, and how it is printed.
type column struct {
	index    int // in the relation; -1 for no column
	kind     kind
	verbatim bool // what is printed is the text form
	modifier int32
	base64   bool // print bytea in base64, else as it is
}

func newColumn(index int, c cdc.Column) column {
	k := kindOf(c.Type)
	return column{index: index, kind: k, verbatim: k < boolean, modifier: c.Modifier}
}

// maxPrinted is the length of the longest value that is not a copy of its data:
// a uuid.
const maxPrinted = 36

// bound returns what append will append at most.
func (c *column) bound(v *cdc.Value) int {
	n := len(v.Data)
	if c.base64 {
		n += base64.StdEncoding.EncodedLen(n)
	}
	return max(n, maxPrinted)
}

var errUnchanged = errors.New("the value of an inserted row is marked as unchanged")

// append appends the value as Debezium prints it. v must not be NULL.
func (c *column) append(dst []byte, v *cdc.Value) ([]byte, error) {
	if c.verbatim && v.Format == cdc.Text || c.kind == text {
		return append(dst, v.Data...), nil
	}
	switch c.kind {
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
	return c.appendBinary(dst, v.Data)
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
		return dst, errors.New("the binary form of the type is not known")
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
	if c.base64 && v.Format == cdc.Binary {
		return base64.StdEncoding.AppendEncode(dst, v.Data), nil
	}
	start := len(dst)
	dst, err := appendBytes(dst, v)
	if err != nil || !c.base64 {
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
