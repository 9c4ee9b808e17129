package outbox

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/pkg/cdc"
)

var fuzzTypes = []uint32{
	pgtype.TextOID, pgtype.JSONBOID, pgtype.BoolOID, pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID,
	pgtype.UUIDOID, pgtype.ByteaOID, pgtype.DateOID, pgtype.TimestampOID, pgtype.TimestamptzOID, pgtype.NumericOID,
}

// FuzzRoute routes rows of random shapes and values: nothing may panic, a
// record's bytes lie in its buffer, which never moved, and the row's own bytes
// may be overwritten afterwards.
func FuzzRoute(f *testing.F) {
	f.Add(uint64(1), []byte(`\x00ff7f`))
	f.Add(uint64(2), []byte("2024-02-29 07:04:56.789012+00"))
	f.Add(uint64(3), []byte{1, '{', '}', 0, 0, 0, 0, 1})
	f.Add(uint64(4), []byte(`a\\b\377`))
	r := newRouter(f, Config{Timestamp: "at", Place: []string{"h:header", "h2:header", "p:partition", "h:header:again"}})
	f.Fuzz(func(t *testing.T, seed uint64, data []byte) {
		ev := randomEvent(rand.New(rand.NewPCG(seed, 0)), data)
		rec, err := r.Route(ev)
		var poison *cdc.PoisonError
		if err != nil {
			if errors.As(err, &poison) && (poison.Table == "" || poison.Reason == "") {
				t.Errorf("poison %v does not say which row and why", poison)
			}
			if errors.As(err, &poison) && rec == nil {
				t.Error("poison without what could be read")
			}
			return
		}
		if rec.Key == nil || rec.Timestamp.IsZero() || len(rec.Headers) != 4 {
			t.Fatalf("record %+v is not complete", rec)
		}
		before := show(rec)
		for _, v := range ev.Values {
			clear(v.Data)
		}
		if after := show(rec); after != before {
			t.Errorf("record changes with the row:\n%s\n%s", before, after)
		}
		for _, b := range append([][]byte{rec.ID, rec.Key, rec.Value}, rec.Headers[1].Value, rec.Headers[2].Value, rec.Headers[3].Value) {
			if !within(b, rec.Buf) {
				t.Errorf("%q lies outside of the record's buffer", b)
			}
		}
		rec.Free()
	})
}

// within reports whether the memory of b, if it has any, is buf's.
func within(b, buf []byte) bool {
	if len(b) == 0 {
		return true
	}
	offset := uintptr(unsafe.Pointer(unsafe.SliceData(b))) - uintptr(unsafe.Pointer(unsafe.SliceData(buf)))
	return offset <= uintptr(len(buf)) && offset+uintptr(len(b)) <= uintptr(len(buf))
}

// randomEvent has most of the columns, in any order, often of a type that may
// stand there, and cuts their values from data.
func randomEvent(rng *rand.Rand, data []byte) *cdc.Event {
	names := []string{"id", "aggregateid", "aggregatetype", "payload", "at", "h", "h2", "p"}
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	var cells []cell
	for _, name := range names {
		typ := fuzzTypes[rng.IntN(len(fuzzTypes))]
		switch {
		case rng.IntN(60) == 0:
			continue
		case name == "at":
			typ = pgtype.TimestamptzOID
		case name == "p":
			typ = pgtype.Int4OID
		}
		v := cdc.Value{Format: []cdc.Format{cdc.Null, cdc.Text, cdc.Text, cdc.Binary, cdc.Binary}[rng.IntN(5)]}
		if rng.IntN(100) == 0 {
			v.Format = cdc.Unchanged
		}
		if v.Format == cdc.Text || v.Format == cdc.Binary {
			from := rng.IntN(len(data) + 1)
			v.Data = bytes.Clone(data[from:])
			v.Data = v.Data[:min(len(v.Data), []int{0, 1, 2, 4, 8, 16, 1000}[rng.IntN(7)])]
		}
		cells = append(cells, cell{name, typ, int32(rng.IntN(9)) - 1, v})
	}
	return eventOf(cells...)
}
