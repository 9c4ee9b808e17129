package outbox

import (
	"errors"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/pkg/cdc"
)

// elementOf returns the type of an array's elements, or 0 for what is no array that is
// known.
func elementOf(typ uint32) uint32 {
	switch typ {
	case pgtype.BoolArrayOID:
		return pgtype.BoolOID
	case pgtype.Int2ArrayOID:
		return pgtype.Int2OID
	case pgtype.Int4ArrayOID:
		return pgtype.Int4OID
	case pgtype.Int8ArrayOID:
		return pgtype.Int8OID
	case pgtype.Float4ArrayOID:
		return pgtype.Float4OID
	case pgtype.Float8ArrayOID:
		return pgtype.Float8OID
	case pgtype.NumericArrayOID:
		return pgtype.NumericOID
	case pgtype.TextArrayOID:
		return pgtype.TextOID
	case pgtype.VarcharArrayOID:
		return pgtype.VarcharOID
	case pgtype.BPCharArrayOID:
		return pgtype.BPCharOID
	case pgtype.UUIDArrayOID:
		return pgtype.UUIDOID
	case pgtype.JSONArrayOID:
		return pgtype.JSONOID
	case pgtype.JSONBArrayOID:
		return pgtype.JSONBOID
	case pgtype.DateArrayOID:
		return pgtype.DateOID
	case pgtype.TimestampArrayOID:
		return pgtype.TimestampOID
	case pgtype.TimestamptzArrayOID:
		return pgtype.TimestamptzOID
	}
	return 0
}

var (
	errNotArray   = errors.New("not an array in the form that Postgres prints")
	errDimensions = errors.New("the array has several dimensions, or does not begin at 1, which Kafka Connect has no type for")
)

// appendArray appends an array as JSON, with its elements as Debezium has them.
// https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
func (c *column) appendArray(dst, text []byte) ([]byte, error) {
	switch {
	case len(text) < 2 || text[len(text)-1] != '}':
		return dst, errNotArray
	case text[0] == '[' || text[0] == '{' && text[1] == '{':
		return dst, errDimensions
	case text[0] != '{':
		return dst, errNotArray
	}
	dst = append(dst, '[')
	var element []byte
	for rest := text[1:]; rest[0] != '}'; {
		quoted := false
		element, rest, quoted = nextElement(element[:0], rest)
		if len(rest) == 0 || rest[0] != ',' && rest[0] != '}' {
			return dst, errNotArray
		}
		var err error
		if !quoted && string(element) == "NULL" {
			dst = append(dst, "null"...)
		} else if dst, err = c.element.appendJSON(dst, &cdc.Value{Format: cdc.Text, Data: element}); err != nil {
			return dst, err
		}
		if rest[0] == ',' {
			dst, rest = append(dst, ','), rest[1:]
		}
	}
	return append(dst, ']'), nil
}

// nextElement reads an element into dst, up to what follows it.
func nextElement(dst, s []byte) (element, rest []byte, quoted bool) {
	if quoted = s[0] == '"'; quoted {
		s = s[1:]
	}
	for len(s) > 0 {
		switch {
		case s[0] == '\\' && len(s) > 1:
			dst, s = append(dst, s[1]), s[2:]
			continue
		case quoted && s[0] == '"':
			return dst, s[1:], true
		case !quoted && (s[0] == ',' || s[0] == '}'):
			return dst, s, false
		}
		dst, s = append(dst, s[0]), s[1:]
	}
	return dst, nil, quoted
}
