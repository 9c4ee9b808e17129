package outbox

import (
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"unicode/utf8"
)

// expandable reports whether a payload is expanded: a JSON object or array, with nothing
// around it.
func expandable(text []byte) bool {
	return len(text) > 0 && (text[0] == '{' || text[0] == '[') && json.Valid(text)
}

// appendExpanded appends a JSON document without white space, with its strings and
// numbers as Jackson writes them. Nothing is left out and nothing is rounded: nulls, empty
// arrays and numbers that are no doubles stay, which Debezium drops, or stops at. doc must
// be valid.
func appendExpanded(dst, doc []byte) []byte {
	for len(doc) > 0 {
		switch c := doc[0]; {
		case c == '"':
			n := stringLength(doc)
			dst = appendRewritten(dst, doc[1:n-1])
			doc = doc[n:]
		case c == '-' || '0' <= c && c <= '9':
			n := numberLength(doc)
			dst = appendNumber(dst, doc[:n])
			doc = doc[n:]
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			doc = doc[1:]
		default:
			dst = append(dst, c)
			doc = doc[1:]
		}
	}
	return dst
}

// stringLength returns how long the string is that s begins with, quotes included.
func stringLength(s []byte) int {
	i := 1
	for s[i] != '"' {
		if s[i] == '\\' {
			i++
		}
		i++
	}
	return i + 1
}

func numberLength(s []byte) int {
	for i, c := range s {
		if c != '-' && c != '+' && c != '.' && c != 'e' && c != 'E' && (c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}

// appendRewritten appends a string whose escapes are written in another way.
func appendRewritten(dst, s []byte) []byte {
	var plain []byte
	rest := s
	dst = append(dst, '"')
	flush := func() {
		quoted := appendJSONString(nil, plain)
		dst = append(dst, quoted[1:len(quoted)-1]...)
		plain = plain[:0]
	}
	for len(rest) > 0 {
		if rest[0] != '\\' {
			plain, rest = append(plain, rest[0]), rest[1:]
			continue
		}
		if rest[1] != 'u' {
			plain, rest = append(plain, unescaped(rest[1])), rest[2:]
			continue
		}
		n, _ := strconv.ParseUint(string(rest[2:6]), 16, 16) // valid
		rest = rest[6:]
		if r := rune(n); r < 0xd800 || r > 0xdfff {
			plain = utf8.AppendRune(plain, r)
			continue
		}
		flush() // a surrogate stays one, also without its other half
		dst = append(dst, '\\', 'u', upperHex[n>>12], upperHex[n>>8&15], upperHex[n>>4&15], upperHex[n&15])
	}
	flush()
	return append(dst, '"')
}

func unescaped(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 't':
		return '\t'
	case 'n':
		return '\n'
	case 'f':
		return '\f'
	case 'r':
		return '\r'
	}
	return c
}

// appendNumber appends a number as Java prints its double, if that is the same number, and
// else as it is.
func appendNumber(dst, text []byte) []byte {
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return strconv.AppendInt(dst, n, 10)
	}
	if len(text) > maxExactNumber || isInteger(text) {
		return append(dst, text...)
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || f != 0 && (math.Abs(f) < 1e-300 || math.Abs(f) > 1e300) {
		return append(dst, text...) // and its fraction would be a large one
	}
	want, ok := new(big.Rat).SetString(string(text))
	if !ok {
		return append(dst, text...)
	}
	start := len(dst)
	dst, err = appendJavaFloat(dst, text, 64)
	if got, ok := new(big.Rat).SetString(string(dst[start:])); err != nil || !ok || got.Cmp(want) != 0 {
		return append(dst[:start], text...)
	}
	return dst
}

// maxExactNumber bounds the length of a number that is compared with its double.
const maxExactNumber = 40

func isInteger(text []byte) bool {
	for _, c := range text {
		if c == '.' || c == 'e' || c == 'E' {
			return false
		}
	}
	return true
}
