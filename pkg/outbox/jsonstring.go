package outbox

import "unicode/utf8"

const upperHex = "0123456789ABCDEF"

// appendJSONString appends s as a JSON string, as Jackson writes one for Kafka Connect:
// characters beyond the Basic Multilingual Plane as a pair of surrogates, control
// characters short or in upper-case hexadecimal, and all others as they are.
func appendJSONString(dst, s []byte) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(s[i:])
			if r >= 0x10000 {
				dst = appendSurrogates(append(dst, s[from:i]...), r)
				from = i + n
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = appendEscapedByte(append(dst, s[from:i]...), c)
		i++
		from = i
	}
	return append(append(dst, s[from:]...), '"')
}

func appendEscapedByte(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, `\b`...)
	case '\t':
		return append(dst, `\t`...)
	case '\n':
		return append(dst, `\n`...)
	case '\f':
		return append(dst, `\f`...)
	case '\r':
		return append(dst, `\r`...)
	}
	return append(dst, '\\', 'u', '0', '0', upperHex[c>>4], upperHex[c&15])
}

func appendSurrogates(dst []byte, r rune) []byte {
	r -= 0x10000
	for _, unit := range [2]rune{0xd800 + r>>10, 0xdc00 + r&0x3ff} {
		dst = append(dst, '\\', 'u', upperHex[unit>>12], upperHex[unit>>8&15], upperHex[unit>>4&15], upperHex[unit&15])
	}
	return dst
}
