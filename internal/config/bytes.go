package config

import (
	"math"
	"strconv"
	"strings"
)

// Bytes is a number of bytes.
type Bytes int64

// units are tried in this order: the largest first, to print the fewest
// digits, and the bare B last, which ends all the others.
var units = []struct {
	name string
	size int64
}{
	{"TiB", 1 << 40},
	{"TB", 1e12},
	{"GiB", 1 << 30},
	{"GB", 1e9},
	{"MiB", 1 << 20},
	{"MB", 1e6},
	{"KiB", 1 << 10},
	{"KB", 1e3},
	{"B", 1},
}

// String returns the size in the largest unit that divides it, as in 24MiB or
// 8MB, or else as a bare number.
func (b Bytes) String() string {
	for _, u := range units[:len(units)-1] {
		if n := int64(b); n != 0 && n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// ParseBytes reads a whole number with or without a unit: KiB, MiB, GiB, TiB
// are powers of 1024, KB, MB, GB, TB of 1000. Case does not matter.
func ParseBytes(s string) (Bytes, error) {
	number, size := strings.TrimSpace(s), int64(1)
	for _, u := range units {
		if head, ok := cutSuffixFold(number, u.name); ok {
			number, size = strings.TrimSpace(head), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, &invalidError{
			strconv.Quote(s) + " is not a size",
			"a whole number of bytes, or with a unit, as in 1048576, 8MB or 24MiB",
		}
	}
	if n > math.MaxInt64/size || n < math.MinInt64/size {
		return 0, &invalidError{text: strconv.Quote(s) + " is too large"}
	}
	return Bytes(n * size), nil
}

func cutSuffixFold(s, suffix string) (string, bool) {
	cut := len(s) - len(suffix)
	if cut < 0 || !strings.EqualFold(s[cut:], suffix) {
		return s, false
	}
	return s[:cut], true
}
