package cdc

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Whatever room is made in it, what was written to a record stays as it is until Free, and no
// two records share memory.
func TestRecordRoom(t *testing.T) {
	type part struct{ got, want []byte }
	rapid.Check(t, func(t *rapid.T) {
		var used []*Record
		parts := map[*Record][]part{}
		mark := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"new": func(*rapid.T) {
				r := NewRecord()
				if len(r.Buf) != 0 || len(r.Headers) != 0 || r.Key != nil || r.Value != nil || r.ID != nil || r.Partition != -1 {
					t.Fatalf("not empty: %+v", r)
				}
				if slices.Contains(used, r) {
					t.Fatal("somebody has it")
				}
				used = append(used, r)
			},
			"write": func(t *rapid.T) {
				if len(used) == 0 {
					t.Skip()
				}
				r := rapid.SampledFrom(used).Draw(t, "record")
				n := rapid.SampledFrom([]int{0, 1, 300, ownBuf, ownBuf + 1, 9_000, 70_000}).Draw(t, "bytes")
				r.Room(n)
				start, room := len(r.Buf), cap(r.Buf)
				mark++
				r.Buf = append(r.Buf, bytes.Repeat([]byte{mark}, n)...)
				if cap(r.Buf) != room {
					t.Fatalf("%d bytes have moved it", n)
				}
				parts[r] = append(parts[r], part{r.Buf[start:], bytes.Repeat([]byte{mark}, n)})
			},
			"free": func(t *rapid.T) {
				if len(used) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(used)-1).Draw(t, "i")
				used[i].Free()
				delete(parts, used[i])
				used = slices.Delete(used, i, i+1)
			},
			"": func(t *rapid.T) {
				for _, all := range parts {
					for _, p := range all {
						if !bytes.Equal(p.got, p.want) {
							t.Fatalf("%d bytes are not what was written", len(p.want))
						}
					}
				}
			},
		})
		for _, r := range used {
			r.Free()
		}
	})
}
