package partition

import (
	"testing"
	"time"
)

func day(n int) *time.Time {
	t := time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC)
	return &t
}

func TestUntil(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		all  []Partition
		want *time.Time
	}{
		"None":     {nil, &now},
		"Past":     {[]Partition{{State: Attached, Lower: day(20), Upper: day(21)}}, &now},
		"Gap":      {[]Partition{{State: Attached, Lower: day(27), Upper: day(28)}, {State: Attached, Lower: day(29), Upper: day(30)}}, day(28)},
		"NotYet":   {[]Partition{{State: Attached, Lower: day(28), Upper: day(29)}}, &now},
		"Ahead":    {[]Partition{{State: Attached, Upper: day(27)}, {State: Attached, Lower: day(27), Upper: day(28)}, {State: Attached, Lower: day(28), Upper: day(29)}}, day(29)},
		"Pending":  {[]Partition{{State: Pending, Lower: day(27), Upper: day(28)}, {State: Detached}}, &now},
		"EndsHere": {[]Partition{{State: Attached, Lower: day(26), Upper: &now}}, &now},
		"NoEnd":    {[]Partition{{State: Attached, Lower: day(27)}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := Until(tt.all, now)
			if (got == nil) != (tt.want == nil) || got != nil && !got.Equal(*tt.want) {
				t.Errorf("Until() = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLater(t *testing.T) {
	now := time.Date(2026, 10, 24, 23, 30, 0, 0, time.FixedZone("", 2*60*60)) // the night before clocks go back there
	for period, want := range map[string]string{"day": "2026-10-27T21:30:00Z", "week": "2026-11-14T21:30:00Z"} {
		if got := (&Table{Period: period}).Later(now, 3).Format(time.RFC3339); got != want {
			t.Errorf("3 of %s: %s, want %s", period, got, want)
		}
	}
}
