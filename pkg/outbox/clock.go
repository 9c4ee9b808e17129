package outbox

import (
	"bytes"
	"errors"
	"strconv"
)

var (
	errNotClock    = errors.New("not a time of day")
	errNotInterval = errors.New("not an interval in the form that IntervalStyle postgres prints")
)

// parseClock reads a time of day, with what its zone is east of UTC.
func parseClock(s []byte) (m, east micros, err error) {
	p := scanner{rest: s}
	m = p.clock()
	if p.peek() == '.' {
		p.literal('.')
		m += p.fraction()
	}
	east = p.offset()
	if p.failed || len(p.rest) > 0 {
		return 0, 0, errNotClock
	}
	return m, east, nil
}

// appendClock appends a time as Debezium prints it: a count since midnight, of
// milliseconds if the type keeps at most three digits of a second, else of microseconds.
func appendClock(dst, text []byte, modifier int32) ([]byte, error) {
	m, _, err := parseClock(text)
	if modifier >= 0 && modifier <= 3 {
		m /= 1000
	}
	return strconv.AppendInt(dst, int64(m), 10), err
}

// appendZonedClock appends a timetz as Debezium prints it: in UTC, without zeros at the
// end of the fraction.
func appendZonedClock(dst, text []byte) ([]byte, error) {
	m, east, err := parseClock(text)
	if err != nil {
		return dst, err
	}
	m = ((m-east)%day + day) % day
	dst = append(appendPadded(dst, int64(m/hour), 2), ':')
	dst = append(appendPadded(dst, int64(m%hour/minute), 2), ':')
	dst = appendPadded(dst, int64(m%minute/second), 2)
	if fraction := m % second; fraction > 0 {
		dst = bytes.TrimRight(appendPadded(append(dst, '.'), int64(fraction), 6), "0")
	}
	return append(dst, 'Z'), nil
}

// month is Debezium's: a twelfth of 365.25 days.
const month = 2629800 * second

// appendInterval appends an interval as Debezium prints it, in microseconds.
func appendInterval(dst, text []byte) ([]byte, error) {
	var total micros
	rest := bytes.Fields(text)
	for len(rest) > 0 {
		if bytes.ContainsRune(rest[0], ':') {
			m, err := parseSignedClock(rest[0])
			if err != nil || len(rest) > 1 {
				return dst, errNotInterval
			}
			total += m
			break
		}
		n, err := strconv.ParseInt(string(bytes.TrimPrefix(rest[0], []byte("+"))), 10, 32)
		if err != nil || len(rest) < 2 {
			return dst, errNotInterval
		}
		switch string(bytes.TrimSuffix(rest[1], []byte("s"))) {
		case "year":
			total += micros(n) * 12 * month
		case "mon":
			total += micros(n) * month
		case "day":
			total += micros(n) * day
		default:
			return dst, errNotInterval
		}
		rest = rest[2:]
	}
	return strconv.AppendInt(dst, int64(total), 10), nil
}

// parseSignedClock reads the hours of an interval, of which there may be many.
func parseSignedClock(s []byte) (micros, error) {
	sign := micros(1)
	switch s[0] {
	case '-':
		sign, s = -1, s[1:]
	case '+':
		s = s[1:]
	}
	p := scanner{rest: s}
	m := p.number(2, 10) * hour
	p.literal(':')
	m += p.number(2, 2) * minute
	p.literal(':')
	m += p.number(2, 2) * second
	if p.peek() == '.' {
		p.literal('.')
		m += p.fraction()
	}
	if p.failed || len(p.rest) > 0 {
		return 0, errNotInterval
	}
	return sign * m, nil
}
