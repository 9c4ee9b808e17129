package pgoutput

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	var d Decoder // one for all, so that nothing may be left from another message
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			d.inStream = g.streamed
			data := unhex(t, g.hex)
			got, err := d.Decode(data)
			if err != nil {
				t.Fatalf("Decode: %v", err)
			}
			if !same(got, g.want) {
				t.Errorf("Decode = %+v, want %+v", got, g.want)
			}
			if back := encode(g.want); !bytes.Equal(back, data) && g.name[:8] != "relation" {
				t.Errorf("encode = %x, want %x", back, data)
			}
		})
	}
}

// Nothing that is not a whole message may pass for one.
func TestDecodeTruncated(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			data := unhex(t, g.hex)
			for n := range data {
				checkSyntaxError(t, data[:n:n], g.streamed)
				checkSyntaxError(t, data[:n], g.streamed) // what is behind must not be read
			}
			checkSyntaxError(t, append(data, 0), g.streamed)
		})
	}
}

func checkSyntaxError(t *testing.T, data []byte, streamed bool) {
	t.Helper()
	d := Decoder{inStream: streamed}
	m, err := d.Decode(data)
	var syntax *SyntaxError
	if !errors.As(err, &syntax) || m != nil {
		t.Fatalf("Decode(%x) = %v, %v, want a SyntaxError", data, m, err)
	}
	if syntax.Offset < 0 || syntax.Offset > len(data) {
		t.Errorf("Decode(%x): offset %d is outside", data, syntax.Offset)
	}
	if len(data) > 0 && syntax.Kind != Kind(data[0]) {
		t.Errorf("Decode(%x): kind %v", data, syntax.Kind)
	}
	if d.InStream() != streamed {
		t.Errorf("Decode(%x): the error changed the state", data)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, tt := range []struct {
		name     string
		streamed bool
		hex      string
		want     string
	}{
		{"nothing", false, "", "at byte 0: empty message"},
		{"unknown kind", false, "7a 00", `decode message 'z' at byte 0: unknown kind`},
		{"prepared transaction", false, "62", `decode message 'b' at byte 0: unknown kind`},
		{"the envelope", false, "77", "decode XLogData at byte 0: unknown kind"},
		{"short", false, "42 0000", "decode Begin at byte 1: want 8 bytes, have 2"},
		{"trailing bytes", false, "41 00000001 00000002 0000000000000003", "decode Stream Abort at byte 9: 8 trailing bytes"},
		{"flags", false, "43 01 0000000000000001 0000000000000002 0000000000000000", "decode Commit at byte 1: unknown flags 0x1"},
		{"stream flags", false, "63 00000001 80 0000000000000001 0000000000000002 0000000000000000", "decode Stream Commit at byte 5: unknown flags 0x80"},
		{"no boolean", false, "53 00000001 02", "decode Stream Start at byte 5: want 0 or 1, have 2"},
		{"zero XID in Begin", false, "42 0000000000000001 0000000000000000 00000000", "decode Begin at byte 17: transaction ID is zero"},
		{"zero XID in a stream", true, "49 00000000 00004001 4e 0000", "decode Insert at byte 1: transaction ID is zero"},
		{"unterminated string", false, "4f 0000000000000102 6e6f", "decode Origin at byte 9: unterminated string"},
		{"wrong tuple", false, "49 00004001 4f 0000", "decode Insert at byte 5: unknown tuple 'O'"},
		{"new tuple missing", false, "55 00004001 4b 0000 4b 0000", "decode Update at byte 8: unknown tuple 'K'"},
		{"new tuple in Delete", false, "44 00004001 4e 0000", "decode Delete at byte 5: unknown tuple 'N'"},
		{"unknown format", false, "49 00004001 4e 0001 78", "decode Insert at byte 8: unknown format 'x'"},
		{"negative length", false, "49 00004001 4e 0001 74 ffffffff", "decode Insert at byte 9: length -1, with 0 bytes left"},
		{"huge length", false, "49 00004001 4e 0001 74 7fffffff 61", "decode Insert at byte 9: length 2147483647, with 1 bytes left"},
		{"fewer columns than claimed", false, "49 00004001 4e 0003 6e6e", "decode Insert at byte 8: 3 elements, with 2 bytes left"},
		{"more columns than claimed", false, "49 00004001 4e 0001 6e6e", "decode Insert at byte 9: 1 trailing bytes"},
		{"fewer columns in Relation", false, "52 00004001 00 7800 6e ffff", "decode Relation at byte 11: 65535 elements, with 0 bytes left"},
		{"fewer tables in Truncate", false, "54 ffffffff 00 00004001", "decode Truncate at byte 6: 4294967295 elements, with 4 bytes left"},
		{"huge content", false, "4d 00 0000000000000001 00 7fffffff", "decode Message at byte 11: length 2147483647, with 0 bytes left"},
		{"nested stream start", true, "53 00000001 01", "decode Stream Start at byte 0: a stream block is open"},
		{"stop without start", false, "45", "decode Stream Stop at byte 0: no stream block is open"},
		{"begin in a stream", true, "42", "decode Begin at byte 0: a stream block is open"},
		{"commit in a stream", true, "43", "decode Commit at byte 0: a stream block is open"},
		{"stream commit in a stream", true, "63", "decode Stream Commit at byte 0: a stream block is open"},
		{"stream abort in a stream", true, "41", "decode Stream Abort at byte 0: a stream block is open"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Decoder{inStream: tt.streamed}
			m, err := d.Decode(unhex(t, tt.hex))
			if err == nil || !strings.Contains(err.Error(), tt.want) || m != nil {
				t.Errorf("Decode = %v, %v, want %q", m, err, tt.want)
			}
		})
	}
}

func TestDecodeStreamBlock(t *testing.T) {
	var d Decoder
	decode := func(name string, want bool) Message {
		t.Helper()
		m, err := d.Decode(goldenOf(t, name))
		if err != nil {
			t.Fatalf("Decode %s: %v", name, err)
		}
		if d.InStream() != want {
			t.Fatalf("InStream() after %s = %v, want %v", name, !want, want)
		}
		return m
	}
	if got := decode("insert", false).(*Insert).XID; got != 0 {
		t.Errorf("XID before the block = %d, want 0", got)
	}
	decode("stream start", true)
	if got := decode("insert, streamed", true).(*Insert).XID; got != 746 {
		t.Errorf("XID in the block = %d, want 746", got)
	}
	decode("stream stop", false)
	if got := decode("insert", false).(*Insert).XID; got != 0 {
		t.Errorf("XID after the block = %d, want 0", got)
	}
	decode("stream start again", true)
	decode("stream stop", false)
	decode("stream commit", false)
}

func TestDecodeStreamed(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			for _, inStream := range []bool{false, true} {
				d := Decoder{inStream: inStream}
				got, err := d.DecodeStreamed(unhex(t, g.hex))
				if g.streamed && (err != nil || !same(got, g.want)) {
					t.Errorf("DecodeStreamed = %+v, %v, want %+v", got, err, g.want)
				}
				if d.InStream() != inStream {
					t.Errorf("InStream() = %v, want it unchanged", d.InStream())
				}
			}
		})
	}
}

func TestPeekStreamed(t *testing.T) {
	for _, g := range goldens {
		if !g.streamed {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			data := unhex(t, g.hex)
			kind, xid, err := PeekStreamed(data)
			if err != nil || kind != Kind(data[0]) || xid != xidOf(g.want) {
				t.Errorf("PeekStreamed = %v, %d, %v, want %v, %d", kind, xid, err, Kind(data[0]), xidOf(g.want))
			}
		})
	}
	for _, data := range []string{"", "49", "49 000002", "49 00000000 00004001", "42 00000001 00000001", "78 00000001"} {
		t.Run("refuses "+data, func(t *testing.T) {
			kind, xid, err := PeekStreamed(unhex(t, data))
			if err == nil || kind != 0 || xid != 0 {
				t.Errorf("PeekStreamed = %v, %d, %v, want an error", kind, xid, err)
			}
		})
	}
}

// Relations may be kept, so no two may share memory.
func TestRelationIsFresh(t *testing.T) {
	var d Decoder
	data := goldenOf(t, "relation")
	first, err := d.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	kept := first.(*Relation).Relation
	if _, err := d.DecodeStreamed(goldenOf(t, "relation, streamed, in pg_catalog, without columns")); err != nil {
		t.Fatal(err)
	}
	clear(data)
	if got, want := kept.Schema+"."+kept.Name+"."+kept.Columns[1].Name, "public.outbox.note"; got != want {
		t.Errorf("kept relation = %s, want %s", got, want)
	}
}

// A value's memory ends where the value does, so that appending to one does not
// write into the next.
func TestValuesAreClipped(t *testing.T) {
	var d Decoder
	m, err := d.Decode(goldenOf(t, "insert"))
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range m.(*Insert).Values {
		if len(v.Data) != cap(v.Data) {
			t.Errorf("value %d has length %d and capacity %d", i, len(v.Data), cap(v.Data))
		}
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	for _, g := range goldens {
		if kind := Kind(unhex(t, g.hex)[0]); kind == KindRelation || kind == KindType {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			var d Decoder
			data := unhex(t, g.hex)
			got := testing.AllocsPerRun(100, func() {
				d.inStream = g.streamed
				if _, err := d.Decode(data); err != nil {
					t.Fatal(err)
				}
			})
			if got != 0 {
				t.Errorf("%v allocations, want 0", got)
			}
		})
	}
}

// A few bytes that claim many elements must cost no memory for them.
func TestClaimsAllocateLittle(t *testing.T) {
	for _, claim := range []string{
		"49 00004001 4e ffff 6e",
		"52 00004001 00 7800 6e ffff 00",
		"54 ffffffff 00 00004001",
		"49 00004001 4e 0001 74 7fffffff 61",
	} {
		t.Run(claim[:2], func(t *testing.T) {
			data := unhex(t, claim)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			var d Decoder
			_, err := d.Decode(data)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("no error")
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 16<<10 {
				t.Errorf("%d bytes allocated", got)
			}
		})
	}
}

func TestReaderStopsAtError(t *testing.T) {
	r := newReader([]byte{'I', 0xff, 1, 2, 3, 4, 5, 6, 7, 8})
	r.bool()
	if got := r.uint32(); got != 0 {
		t.Errorf("uint32() after an error = %d, want 0", got)
	}
	if err := r.finish(); err == nil || err.Error() != "decode Insert at byte 1: want 0 or 1, have 255" {
		t.Errorf("finish() = %v, want the first error", err)
	}
}

func TestKindString(t *testing.T) {
	for kind, want := range map[Kind]string{KindInsert: "Insert", KindStreamAbort: "Stream Abort", 'z': "message 'z'"} {
		if got := kind.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}
