package outbox

import (
	"errors"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/pkg/cdc"
)

// appendJSON appends the value as Kafka Connect's JsonConverter does, of what Debezium
// makes of it. v must not be NULL. In a header's array it is what SimpleHeaderConverter
// appends.
func (c *column) appendJSON(dst []byte, v *cdc.Value) ([]byte, error) {
	switch c.kind {
	case text:
		return appendJSONString(dst, v.Data), nil
	case int2, int4, int8, oid, boolean, timestamp, clock, interval, point, array:
		return c.print(dst, v)
	case scaled:
		if c.form == headerForm && isNaN(v.Data) {
			return appendJSONString(dst, v.Data), nil
		}
		return c.print(dst, v)
	case date:
		return c.appendJSONDate(dst, v)
	case float4, float8:
		return c.appendJSONFloat(dst, v)
	case numeric:
		switch {
		case c.form != headerForm:
			return appendDecimal(dst, v.Data)
		case isNaN(v.Data):
			return appendJSONString(dst, v.Data), nil
		}
		return append(dst, v.Data...), nil
	case money:
		return c.appendJSONMoney(dst, v)
	case bytea:
		return c.appendJSONBytes(dst, v)
	case bits:
		if c.modifier == 1 {
			return c.print(dst, v)
		}
		return appendBase64(dst, bitBytes(v.Data)), nil
	case jsonb:
		return appendJSONString(dst, c.document(v)), nil
	}
	var small [64]byte
	printed, err := c.print(small[:0], v)
	return appendJSONString(dst, printed), err
}

// document returns the text of a text or jsonb.
func (c *column) document(v *cdc.Value) []byte {
	if c.kind == jsonb && v.Format == cdc.Binary && len(v.Data) > 0 {
		return v.Data[1:]
	}
	return v.Data
}

var errInfiniteDate = errors.New("the date is infinite, which Kafka Connect has no number for")

func (c *column) appendJSONDate(dst []byte, v *cdc.Value) ([]byte, error) {
	start := len(dst)
	dst, err := c.print(dst, v)
	if err == nil && dst[len(dst)-1] == 'y' {
		return dst[:start], errInfiniteDate
	}
	return dst, err
}

func (c *column) appendJSONFloat(dst []byte, v *cdc.Value) ([]byte, error) {
	var small [32]byte
	printed, err := c.print(small[:0], v)
	return appendPrintedFloat(dst, printed), err
}

// appendPrintedFloat appends what appendJavaFloat has printed.
func appendPrintedFloat(dst, printed []byte) []byte {
	if len(printed) > 0 && !finite(printed) {
		return appendJSONString(dst, printed)
	}
	return append(dst, printed...)
}

func (c *column) appendJSONMoney(dst []byte, v *cdc.Value) ([]byte, error) {
	var small [32]byte
	printed, err := c.print(small[:0], v)
	if err != nil || c.form == headerForm {
		return append(dst, printed...), err
	}
	return appendDecimal(dst, printed)
}

func (c *column) appendJSONBytes(dst []byte, v *cdc.Value) ([]byte, error) {
	data := v.Data
	if v.Format == cdc.Text {
		var err error
		if data, err = appendBytes(nil, v); err != nil {
			return dst, err
		}
	}
	return appendBase64(dst, data), nil
}

// schemaName is the name that Debezium gives to a type, or "".
func (c *column) schemaName(typ uint32) string {
	switch c.kind {
	case jsonb:
		return "io.debezium.data.Json"
	case uuidType:
		return "io.debezium.data.Uuid"
	case date:
		return "io.debezium.time.Date"
	case timestamp:
		if c.millis() {
			return "io.debezium.time.Timestamp"
		}
		return "io.debezium.time.MicroTimestamp"
	case timestamptz:
		return "io.debezium.time.ZonedTimestamp"
	case clock:
		if c.millis() {
			return "io.debezium.time.Time"
		}
		return "io.debezium.time.MicroTime"
	case zonedClock:
		return "io.debezium.time.ZonedTime"
	case interval:
		return "io.debezium.time.MicroDuration"
	case scaled:
		return "io.debezium.data.VariableScaleDecimal"
	case point:
		return "io.debezium.data.geometry.Point"
	case numeric, money:
		return "org.apache.kafka.connect.data.Decimal"
	case bits:
		if c.modifier != 1 {
			return "io.debezium.data.Bits"
		}
	}
	return textSchemas[typ]
}

// textSchemas are the names of types whose values are text.
var textSchemas = map[uint32]string{pgtype.JSONOID: "io.debezium.data.Json", pgtype.XMLOID: "io.debezium.data.Xml"}

func isJSONType(typ uint32) bool { return typ == pgtype.JSONOID || typ == pgtype.JSONBOID }

// millis reports whether the type keeps at most three digits of a second.
func (c *column) millis() bool { return c.modifier >= 0 && c.modifier <= 3 }

// connectType is the type that Connect has for a column.
func (c *column) connectType() string {
	switch c.kind {
	case boolean:
		return "boolean"
	case int2:
		return "int16"
	case int4, date:
		return "int32"
	case int8, oid, timestamp, interval:
		return "int64"
	case clock:
		if c.millis() {
			return "int32"
		}
		return "int64"
	case float4:
		return "float"
	case float8:
		return "double"
	case bytea, numeric, money:
		return "bytes"
	case bits:
		if c.modifier == 1 {
			return "boolean"
		}
		return "bytes"
	case array:
		return "array"
	case scaled, point:
		return "struct"
	}
	return "string"
}

// appendSchema appends the schema of a column, as a field's if that has a name.
func (c *column) appendSchema(dst []byte, col cdc.Column, field string) []byte {
	dst = append(append(dst, `{"type":"`...), c.connectType()...)
	dst = append(dst, '"')
	switch c.kind {
	case array:
		element := cdc.Column{Type: elementOf(col.Type), Modifier: col.Modifier}
		dst = c.element.appendSchema(append(dst, `,"items":`...), element, "")
	case scaled:
		dst = append(dst, `,"fields":[{"type":"int32","optional":false,"field":"scale"},{"type":"bytes","optional":false,"field":"value"}]`...)
	case point:
		dst = append(dst, `,"fields":[{"type":"double","optional":false,"field":"x"},{"type":"double","optional":false,"field":"y"},`+
			`{"type":"bytes","optional":true,"field":"wkb"},{"type":"int32","optional":true,"field":"srid"}]`...)
	}
	dst = append(append(dst, `,"optional":`...), printedBool(!col.NotNull)...)
	name := c.schemaName(col.Type)
	if len(col.Labels) > 0 {
		name = "io.debezium.data.Enum"
	}
	if name != "" {
		dst = append(append(append(dst, `,"name":"`...), name...), `","version":1`...)
	}
	if dst = c.appendParameters(dst); len(col.Labels) > 0 {
		dst = appendJSONString(append(dst, `,"parameters":{"allowed":`...), []byte(strings.Join(col.Labels, ",")))
		dst = append(dst, '}')
	}
	if field != "" {
		dst = appendJSONString(append(dst, `,"field":`...), []byte(field))
	}
	return append(dst, '}')
}

func (c *column) appendParameters(dst []byte) []byte {
	switch {
	case c.kind == scaled:
		dst = append(dst, `,"doc":"Variable scaled decimal"`...)
	case c.kind == point:
		dst = append(dst, `,"doc":"Geometry (POINT)"`...)
	case c.kind == money:
		dst = append(dst, `,"parameters":{"scale":"2"}`...)
	case c.kind == numeric:
		// https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/numeric.c
		precision, scale := (c.modifier-4)>>16, (c.modifier-4)&0x7ff
		dst = strconv.AppendInt(append(dst, `,"parameters":{"scale":"`...), int64(scale), 10)
		dst = strconv.AppendInt(append(dst, `","connect.decimal.precision":"`...), int64(precision), 10)
		dst = append(dst, `"}`...)
	case c.kind == bits && c.modifier != 1:
		dst = strconv.AppendInt(append(dst, `,"parameters":{"length":"`...), int64(c.modifier), 10)
		dst = append(dst, `"}`...)
	}
	return dst
}
