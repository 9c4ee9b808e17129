package outbox

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
)

// appendJavaFloat appends a floating-point number as Java's Double.toString and
// Float.toString print it, by its size in bits.
// https://docs.oracle.com/en/java/javase/17/docs/api/java.base/java/lang/Double.html#toString(double)
func appendJavaFloat(dst, text []byte, bits int) ([]byte, error) {
	f, err := strconv.ParseFloat(string(text), bits)
	switch {
	case math.IsNaN(f):
		return append(dst, "NaN"...), nil
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...), nil
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...), nil
	case err != nil:
		return dst, fmt.Errorf("%q is no floating-point number", text)
	}
	if a := math.Abs(f); a == 0 || 1e-3 <= a && a < 1e7 {
		start := len(dst)
		dst = strconv.AppendFloat(dst, f, 'f', -1, bits)
		if !bytes.ContainsRune(dst[start:], '.') {
			dst = append(dst, ".0"...)
		}
		return dst, nil
	}
	printed := strconv.AppendFloat(make([]byte, 0, 32), f, 'e', -1, bits)
	if !bytes.ContainsRune(printed, '.') { // Java has two digits at the least, and of those the nearest
		two := strconv.AppendFloat(nil, f, 'e', 1, bits)
		if same, err := strconv.ParseFloat(string(two), bits); err == nil && same == f {
			printed = two
		}
	}
	mantissa, exponent, _ := bytes.Cut(printed, []byte("e"))
	dst = append(dst, mantissa...)
	if !bytes.ContainsRune(mantissa, '.') {
		dst = append(dst, ".0"...)
	}
	n, err := strconv.Atoi(string(exponent))
	return strconv.AppendInt(append(dst, 'E'), int64(n), 10), err
}

// finite reports whether a printed floating-point number is one to JSON.
func finite(printed []byte) bool {
	last := printed[len(printed)-1]
	return last != 'N' && last != 'y'
}

// isNaN reports whether a numeric is NaN or an infinity.
func isNaN(text []byte) bool { return len(text) > 0 && text[len(text)-1] > '9' }

var errNoDecimal = errors.New("the number is infinite or none, which a decimal cannot be")

// parseDecimal splits a numeric into its digits and the number of those behind the point.
func parseDecimal(text []byte) (unscaled *big.Int, scale int, err error) {
	whole, fraction, _ := bytes.Cut(text, []byte("."))
	unscaled, ok := new(big.Int).SetString(string(whole)+string(fraction), 10)
	if !ok {
		return nil, 0, errNoDecimal
	}
	return unscaled, len(fraction), nil
}

// appendDecimal appends the digits of a numeric as Connect's Decimal has them, in base64.
func appendDecimal(dst, text []byte) ([]byte, error) {
	unscaled, _, err := parseDecimal(text)
	if err != nil {
		return dst, err
	}
	return appendBase64(dst, twosComplement(unscaled)), nil
}

// appendScaledDecimal appends a numeric of no fixed scale as Debezium's struct.
func appendScaledDecimal(dst, text []byte) ([]byte, error) {
	unscaled, scale, err := parseDecimal(text)
	if err != nil {
		return dst, err
	}
	if unscaled.Sign() == 0 {
		scale = 0 // as Debezium has it
	}
	dst = strconv.AppendInt(append(dst, `{"scale":`...), int64(scale), 10)
	return append(appendBase64(append(dst, `,"value":`...), twosComplement(unscaled)), '}'), nil
}

// appendBase64 appends a JSON string.
func appendBase64(dst, data []byte) []byte {
	dst = append(dst, '"')
	return append(base64.StdEncoding.AppendEncode(dst, data), '"')
}

// twosComplement returns n in as few bytes as it takes, the highest first, as Java's
// BigInteger.toByteArray.
func twosComplement(n *big.Int) []byte {
	if n.Sign() >= 0 {
		b := n.Bytes()
		if len(b) == 0 || b[0]&0x80 != 0 {
			b = append([]byte{0}, b...)
		}
		return b
	}
	// The bits of -n-1, inverted.
	b := new(big.Int).Not(n).Bytes()
	if len(b) == 0 || b[0]&0x80 != 0 {
		b = append([]byte{0}, b...)
	}
	for i := range b {
		b[i] = ^b[i]
	}
	return b
}

// appendMoney appends a money value as a plain number with two digits behind the point.
func appendMoney(dst, text []byte) ([]byte, error) {
	start := len(dst)
	for _, c := range text {
		switch {
		case '0' <= c && c <= '9', c == '.':
			dst = append(dst, c)
		case c == '-', c == '(':
			dst = append(dst, '-')
		}
	}
	if i := bytes.IndexByte(dst[start:], '.'); i < 0 || len(dst)-start-i != 3 {
		return dst, fmt.Errorf("%q is not money as lc_monetary C prints it", text)
	}
	return dst, nil
}

// bitBytes returns a bit string as Debezium has it: the last bit is the lowest of the
// first byte, and zero bytes at the end are left out.
func bitBytes(text []byte) []byte {
	b := make([]byte, (len(text)+7)/8)
	for i := range text {
		if text[len(text)-1-i] == '1' {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return bytes.TrimRight(b, "\x00")
}
