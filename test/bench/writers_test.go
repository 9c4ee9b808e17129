package main

import (
	"testing"
	"time"
)

// A row's part of the text is never cut off, and goes on where the last has ended.
func TestPads(t *testing.T) {
	p := newPads()
	if first, second := p.next(), p.next(); first == second {
		t.Error("two rows have the same text")
	}
	for range 2 * len(p.text) / padBytes {
		if got := p.next(); len(got) != padBytes {
			t.Fatalf("%d bytes for a row", len(got))
		}
	}
}

// The consumer reads from a payload when its event was due.
func TestDueOf(t *testing.T) {
	want := time.Unix(0, 1_764_270_000_123_456_789)
	if got, ok := dueOf([]byte(payload(want, "pad"))); !ok || !got.Equal(want) {
		t.Errorf("got %s, %t", got, ok)
	}
	for _, other := range []string{"", `{"n": 1}`, `{"due": x, "pad": ""}`, `{"due": 1`} {
		if _, ok := dueOf([]byte(other)); ok {
			t.Errorf("%q has a time", other)
		}
	}
}
