package outbox

import (
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// micros is a moment as Postgres has it: microseconds since 2000-01-01 UTC, and
// the extremes for the infinities.
type micros int64

const (
	infinite         micros = math.MaxInt64
	negativeInfinite micros = math.MinInt64

	second micros = 1e6
	minute        = 60 * second
	hour          = 60 * minute
	day           = 24 * hour

	// epochDays lie between 1970-01-01 and 2000-01-01.
	epochDays = 10957
	epoch     = epochDays * day
)

// What Debezium writes for an infinite timestamp: the driver's milliseconds,
// taken for microseconds.
const (
	debeziumInfinite         = 9223372036825200000
	debeziumNegativeInfinite = -9223372036832400000
)

var (
	errNotTime   = errors.New("not a time in the form that DateStyle ISO prints")
	errNotBinary = errors.New("the binary form has another length")
)

// readMicros reads a timestamp or timestamptz.
func readMicros(v *cdc.Value) (micros, error) {
	if v.Format == cdc.Text {
		return parseMicros(v.Data)
	}
	if len(v.Data) != 8 {
		return 0, errNotBinary
	}
	return micros(binary.BigEndian.Uint64(v.Data)), nil
}

// readDays reads a date as days since 2000-01-01; the extremes of int32 are the
// infinities.
func readDays(v *cdc.Value) (int32, error) {
	if v.Format == cdc.Text {
		return parseDays(v.Data)
	}
	if len(v.Data) != 4 {
		return 0, errNotBinary
	}
	return int32(binary.BigEndian.Uint32(v.Data)), nil
}

// appendUnix appends a timestamp as Debezium prints it: a count since 1970, of
// milliseconds if the type keeps at most three digits of a second, else of
// microseconds.
func appendUnix(dst []byte, m micros, modifier int32) []byte {
	millis := modifier >= 0 && modifier <= 3
	switch {
	case m == infinite && millis:
		return strconv.AppendInt(dst, debeziumInfinite/1000, 10)
	case m == infinite:
		return strconv.AppendInt(dst, debeziumInfinite, 10)
	case m == negativeInfinite && millis:
		return strconv.AppendInt(dst, debeziumNegativeInfinite/1000, 10)
	case m == negativeInfinite:
		return strconv.AppendInt(dst, debeziumNegativeInfinite, 10)
	case millis:
		return strconv.AppendInt(dst, unixMillis(m), 10)
	case m > math.MaxInt64-epoch: // from the year 294247 on int64 overflows
		return strconv.AppendUint(dst, uint64(m)+uint64(epoch), 10)
	}
	return strconv.AppendInt(dst, int64(m+epoch), 10)
}

// unixMillis cuts a finite moment to milliseconds since 1970.
func unixMillis(m micros) int64 {
	return int64(floorDiv(m, 1000)) + int64(epoch/1000)
}

// unixTime is a finite moment cut to milliseconds.
func unixTime(m micros) time.Time { return time.UnixMilli(unixMillis(m)) }

// appendISO appends a timestamptz as Debezium prints it: in UTC, with as many
// digits of a second as the type keeps.
func appendISO(dst []byte, m micros, modifier int32) []byte {
	switch m {
	case infinite:
		return append(dst, "infinity"...)
	case negativeInfinite:
		return append(dst, "-infinity"...)
	}
	days := floorDiv(m, day)
	year, month, dom := civil(int64(days))
	dst = append(appendYear(dst, year), '-')
	dst = append(appendPadded(dst, month, 2), '-')
	dst = append(appendPadded(dst, dom, 2), 'T')
	rest := m - days*day
	dst = append(appendPadded(dst, int64(rest/hour), 2), ':')
	dst = append(appendPadded(dst, int64(rest%hour/minute), 2), ':')
	dst = appendPadded(dst, int64(rest%minute/second), 2)
	return append(appendFraction(dst, int64(rest%second), modifier), 'Z')
}

// appendYear appends a year as ISO 8601 has it, where 0000 is 1 BC, with a sign
// beyond four digits.
func appendYear(dst []byte, year int64) []byte {
	switch {
	case year < 0:
		return appendPadded(append(dst, '-'), -year, 4)
	case year > 9999:
		dst = append(dst, '+')
	}
	return appendPadded(dst, year, 4)
}

func appendFraction(dst []byte, fraction int64, modifier int32) []byte {
	if modifier < 0 || modifier > 6 {
		modifier = 6
	}
	if modifier == 0 {
		return dst
	}
	dst = appendPadded(append(dst, '.'), fraction, 6)
	return dst[:len(dst)-6+int(modifier)]
}

// appendPadded appends n, which is not negative, with at least width digits.
func appendPadded(dst []byte, n int64, width int) []byte {
	for limit := int64(10); width > 1; width, limit = width-1, limit*10 {
		if n < limit {
			for ; width > 1; width-- {
				dst = append(dst, '0')
			}
			break
		}
	}
	return strconv.AppendInt(dst, n, 10)
}

// appendDays appends a date as Debezium prints it, in days since 1970. An
// infinity, of which Debezium makes a number in the past, stays one.
func appendDays(dst []byte, days int32) []byte {
	switch days {
	case math.MaxInt32:
		return append(dst, "infinity"...)
	case math.MinInt32:
		return append(dst, "-infinity"...)
	}
	return strconv.AppendInt(dst, int64(days)+epochDays, 10)
}

func floorDiv(a, b micros) micros {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
