package outbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
)

// appendPoint appends a point as Debezium's struct, with the same as little-endian WKB.
// https://www.ogc.org/publications/standard/sfa/
func appendPoint(dst, text []byte) ([]byte, error) {
	first, second, ok := bytes.Cut(bytes.Trim(text, "()"), []byte(","))
	if !ok {
		return dst, fmt.Errorf("%q is no point", text)
	}
	wkb := append(make([]byte, 0, 21), 1, 1, 0, 0, 0)
	for i, number := range [][]byte{first, second} {
		f, err := strconv.ParseFloat(string(number), 64)
		if err != nil {
			return dst, fmt.Errorf("%q is no point: %w", text, err)
		}
		if math.IsNaN(f) { // Java's
			f = math.Float64frombits(0x7ff8000000000000)
		}
		wkb = binary.LittleEndian.AppendUint64(wkb, math.Float64bits(f))
		var small [32]byte
		printed, err := appendJavaFloat(small[:0], number, 64)
		if err != nil {
			return dst, err
		}
		dst = appendPrintedFloat(append(dst, [2]string{`{"x":`, `,"y":`}[i]...), printed)
	}
	return append(appendBase64(append(dst, `,"wkb":`...), wkb), `,"srid":null}`...), nil
}
