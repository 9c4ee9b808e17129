package outbox

import (
	"bytes"
	"math"
)

// parseMicros reads what Postgres prints with DateStyle ISO:
// 2024-02-29 07:04:56.789012, with an offset behind it for timestamptz, and BC
// for years before 1. The fraction has up to six digits.
// https://www.postgresql.org/docs/current/datatype-datetime.html#DATATYPE-DATETIME-OUTPUT
func parseMicros(s []byte) (micros, error) {
	switch string(s) {
	case "infinity":
		return infinite, nil
	case "-infinity":
		return negativeInfinite, nil
	}
	s, bc := bytes.CutSuffix(s, []byte(" BC"))
	p := scanner{rest: s}
	days := p.date(bc)
	p.failed = p.failed || days > micros(math.MaxInt64)/day-1
	p.literal(' ')
	m := days*day + p.clock()
	if p.peek() == '.' {
		p.literal('.')
		m += p.fraction()
	}
	m -= p.offset()
	if p.failed || len(p.rest) > 0 {
		return 0, errNotTime
	}
	return m, nil
}

func parseDays(s []byte) (int32, error) {
	switch string(s) {
	case "infinity":
		return math.MaxInt32, nil
	case "-infinity":
		return math.MinInt32, nil
	}
	s, bc := bytes.CutSuffix(s, []byte(" BC"))
	p := scanner{rest: s}
	days := p.date(bc)
	if p.failed || len(p.rest) > 0 {
		return 0, errNotTime
	}
	return int32(days), nil
}

// scanner reads a time from the front of rest. After it has failed, what it
// returns means nothing.
type scanner struct {
	rest   []byte
	failed bool
}

func (p *scanner) peek() byte {
	if len(p.rest) == 0 {
		return 0
	}
	return p.rest[0]
}

func (p *scanner) literal(c byte) {
	if p.peek() != c {
		p.failed = true
		return
	}
	p.rest = p.rest[1:]
}

// number reads between low and high digits.
func (p *scanner) number(low, high int) (n micros) {
	i := 0
	for i < len(p.rest) && i < high && '0' <= p.rest[i] && p.rest[i] <= '9' {
		n = 10*n + micros(p.rest[i]-'0')
		i++
	}
	p.failed = p.failed || i < low
	p.rest = p.rest[i:]
	return n
}

// date returns days since 2000-01-01. The highest year of a date is 5874897.
func (p *scanner) date(bc bool) micros {
	year := p.number(4, 7)
	p.literal('-')
	month := p.number(2, 2)
	p.literal('-')
	dom := p.number(2, 2)
	if bc {
		year = 1 - year
	}
	p.failed = p.failed || month < 1 || month > 12 || dom < 1 || dom > 31
	return micros(fromCivil(int64(year), int64(month), int64(dom)))
}

func (p *scanner) clock() micros {
	h := p.number(2, 2)
	p.literal(':')
	m := p.number(2, 2)
	p.literal(':')
	return h*hour + m*minute + p.number(2, 2)*second
}

func (p *scanner) fraction() micros {
	before := len(p.rest)
	n := p.number(1, 6)
	for digits := before - len(p.rest); digits < 6; digits++ {
		n *= 10
	}
	return n
}

// offset returns what the zone is east of UTC, as in +05:30 or -04:56:02. There
// is none behind a timestamp.
func (p *scanner) offset() (east micros) {
	sign := p.peek()
	if sign != '+' && sign != '-' {
		return 0
	}
	p.literal(sign)
	for unit := hour; unit >= second; unit /= 60 {
		if unit < hour {
			p.literal(':')
		}
		east += p.number(2, 2) * unit
		if p.peek() != ':' {
			break
		}
	}
	if sign == '-' {
		return -east
	}
	return east
}

// The days of four hundred years of the Gregorian calendar, after which it
// repeats, and from 0000-03-01, where a leap day ends its year, to 2000-01-01.
const (
	daysOfEra = 146097
	marchZero = 730425
)

// fromCivil returns the days from 2000-01-01 to a day of the Gregorian
// calendar, which Postgres also uses for the time before it existed. Year 0 is
// 1 BC.
func fromCivil(year, month, dom int64) int64 {
	month -= 3
	if month < 0 {
		year, month = year-1, month+12
	}
	era := int64(floorDiv(micros(year), 400))
	y := year - era*400
	return era*daysOfEra + y*365 + y/4 - y/100 + (153*month+2)/5 + dom - 1 - marchZero
}

// civil is the inverse of fromCivil.
func civil(days int64) (year, month, dom int64) {
	days += marchZero
	era := int64(floorDiv(micros(days), daysOfEra))
	d := days - era*daysOfEra
	y := (d - d/1460 + d/36524 - d/(daysOfEra-1)) / 365
	d -= y*365 + y/4 - y/100
	month = (5*d + 2) / 153
	dom = d - (153*month+2)/5 + 1
	year = era*400 + y
	if month += 3; month > 12 {
		year, month = year+1, month-12
	}
	return year, month, dom
}
