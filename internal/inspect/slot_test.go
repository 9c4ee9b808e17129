package inspect

import (
	"testing"
	"time"
)

// What is left is until the first of the limits, at the rate of now.
func TestUntil(t *testing.T) {
	room := func(n int64) *int64 { return &n }
	for _, tt := range []struct {
		rate  float64
		rooms []*int64
		want  time.Duration // negative is none
	}{
		{10, []*int64{room(100), room(50)}, 5 * time.Second},
		{10, []*int64{nil, room(50)}, 5 * time.Second},
		{10, []*int64{room(100), nil}, 10 * time.Second},
		{10, []*int64{room(-5), room(50)}, 0},
		{10, []*int64{nil, nil}, -1},
		{0, []*int64{room(100)}, -1},
		{1e-3, []*int64{room(1 << 40)}, -1},
	} {
		got := time.Duration(-1)
		if left := (Server{Rate: tt.rate}).until(tt.rooms...); left != nil {
			got = *left
		}
		if got != tt.want {
			t.Errorf("at %g with %v: %s, want %s", tt.rate, tt.rooms, got, tt.want)
		}
	}
}
