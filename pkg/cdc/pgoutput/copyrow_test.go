package pgoutput

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

const (
	copyHeaderHex = "50 47 43 4f 50 59 0a ff 0d 0a 00 00000000 00000000"
	copyRowHex    = "0002 00000008 0000001600000abc 00000003 420102"
)

func TestDecodeCopyRow(t *testing.T) {
	row := XLogData{WALStart: 0x1600000abc, Data: []byte{'B', 1, 2}}
	tests := []struct {
		name, hex string
		want      XLogData
		ok        bool
	}{
		{"Row", copyRowHex, row, true},
		{"FirstRow", copyHeaderHex + copyRowHex, row, true},
		{"HeaderAlone", copyHeaderHex, XLogData{}, false},
		{"Trailer", "ffff", XLogData{}, false},
		{"HeaderAndTrailer", copyHeaderHex + "ffff", XLogData{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, err := DecodeCopyRow(unhex(t, tt.hex))
			if err != nil || ok != tt.ok || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("DecodeCopyRow = %+v, %t, %v, want %+v, %t", got, ok, err, tt.want, tt.ok)
			}
		})
	}
}

func TestDecodeCopyRowErrors(t *testing.T) {
	row := unhex(t, copyHeaderHex+copyRowHex)
	bad := map[string][]byte{
		"Trailing":  append(bytes.Clone(row), 0),
		"Extension": unhex(t, "50 47 43 4f 50 59 0a ff 0d 0a 00 00000000 00000001 00"),
		"OneField":  unhex(t, "0001 00000008 0000001600000abc 00000003 420102"),
		"NullLSN":   unhex(t, "0002 ffffffff 0000000000000000 00000003 420102"),
		"NullData":  unhex(t, "0002 00000008 0000001600000abc ffffffff"),
		"NoMessage": unhex(t, "0002 00000008 0000001600000abc 00000000"),
	}
	for n := range row {
		if n != copyHeader {
			bad["Cut"+string(rune('A'+n))] = row[:n]
		}
	}
	for name, data := range bad {
		var syntax *SyntaxError
		if _, ok, err := DecodeCopyRow(data); ok || !errors.As(err, &syntax) || syntax.Kind != KindCopyRow {
			t.Errorf("%s: DecodeCopyRow(%x) = %t, %v, want a SyntaxError", name, data, ok, err)
		}
	}
}

func FuzzDecodeCopyRow(f *testing.F) {
	f.Add(unhex(f, copyHeaderHex+copyRowHex))
	f.Add(unhex(f, copyRowHex))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = append(bytes.Clone(data), "next"...)[:len(data)]
		x, ok, err := DecodeCopyRow(data)
		checkInside(t, data, x.Data)
		if ok && (err != nil || len(x.Data) == 0) {
			t.Errorf("DecodeCopyRow(%x) = %+v, %t, %v", data, x, ok, err)
		}
	})
}
