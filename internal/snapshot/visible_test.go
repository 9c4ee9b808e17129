package snapshot

import "testing"

func TestVisible(t *testing.T) {
	for _, tt := range []struct {
		snapshot string
		next     uint64 // xmax of the session's snapshot
		xid      uint32
		want     bool
	}{
		{"100:110:", 200, 99, true},
		{"100:98:", 200, 98, true}, // has rolled back, or it would not be asked for
		{"100:98:", 98, 50, true},
		{"100:98:", 200, 100, false},
		{"100:110:", 200, 109, true},
		{"100:110:", 200, 110, false}, // came later
		{"100:110:", 200, 199, false},
		{"100:110:102,105", 200, 102, false}, // had not committed
		{"100:110:102,105", 200, 103, true},
		{"100:110:102,105", 110, 105, false}, // in the exported snapshot itself
		{"100:110:", 110, 110, true},         // which sees nothing of later ones
		{"100:110:", 200, 2, true},           // frozen
		{"100:110:", 200, 4000000000, true},  // frozen long ago, before the numbers began anew
		{"4294967290:4294967305:4294967300", 4294967400, 4, false},
		{"4294967290:4294967305:4294967300", 4294967400, 3, true},
		{"4294967290:4294967300:", 4294967400, 4, false},
		{"4294967290:4294967300:", 4294967400, 103, false},
		{"4294967290:4294967300:", 4294967400, 104, true}, // 4 billion transactions ago
		{"4294967290:4294967300:", 4294967400, 4294967295, true},
	} {
		v, err := parseVisible(tt.snapshot)
		if err != nil {
			t.Fatal(err)
		}
		if got := v.sees(tt.xid, tt.next); got != tt.want {
			t.Errorf("%s sees %d of a session at %d: %t, want %t", tt.snapshot, tt.xid, tt.next, got, tt.want)
		}
		if again, err := parseVisible(v.String()); err != nil || v.String() != again.String() {
			t.Errorf("String() = %s, and again %s, %v", v, again, err)
		}
	}
	for _, bad := range []string{"", "1:2", "a:2:", "1:b:", "1:2:c"} {
		if _, err := parseVisible(bad); err == nil {
			t.Errorf("parseVisible(%q) = nil", bad)
		}
	}
}

// Each row belongs to one chunk, whatever the size.
func TestChunks(t *testing.T) {
	p := plan{Parts: []part{
		{Name: []string{"public", "none"}, Each: chunkBlocks},
		{Name: []string{"public", "a"}, Blocks: 2*chunkBlocks + 1, Each: chunkBlocks},
		{Name: []string{"public", "b"}, OrderBy: "seq", Bounds: []string{"5", "it's"}, Filter: "x > 1"},
	}}
	var got []string
	for n := range p.chunks() {
		part, at := p.chunk(n)
		where, _ := part.where(at)
		got = append(got, part.Name[1]+": "+where)
	}
	want := []string{
		"a: ctid >= '(0,0)'::tid AND ctid < '(256,0)'::tid",
		"a: ctid >= '(256,0)'::tid AND ctid < '(512,0)'::tid",
		"a: ctid >= '(512,0)'::tid AND ctid < '(513,0)'::tid",
		`b: "seq" IS NULL AND (x > 1)`,
		`b: "seq" < '5' AND (x > 1)`,
		`b: "seq" >= '5' AND "seq" < 'it''s' AND (x > 1)`,
		`b: "seq" >= 'it''s' AND (x > 1)`,
	}
	if len(got) != len(want) {
		t.Fatalf("chunks %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("chunk %d: %s, want %s", i, got[i], want[i])
		}
	}
}
