package pgsource

import (
	"testing"

	"github.com/walpost/walpost/pkg/cdc"
)

func TestNextChunk(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct{ covered, brought, want cdc.LSN }{
		{firstChunk, 0, farChunk},
		{firstChunk, firstChunk/minPullShare - 1, farChunk},
		{firstChunk, firstChunk / minPullShare, minPullShare * pullChunk},
		{firstChunk, firstChunk / 2, 2 * pullChunk},
		{firstChunk, 2 * firstChunk, pullChunk},
		{farChunk, farChunk / 2, 2 * pullChunk},
		{farChunk, farChunk, pullChunk},
		{mib, mib, pullChunk},
	} {
		if got := nextChunk(c.covered, c.brought); got != c.want {
			t.Errorf("after %d bytes from %d: got %d MiB, want %d MiB", c.brought, c.covered, got/mib, c.want/mib)
		}
	}
}

// A stream is left for a pull only where it is far behind and what comes is much, for
// itself and as a part of the WAL that it covers.
func TestBehind(t *testing.T) {
	const above = 32 << 20
	for name, c := range map[string]struct {
		above         cdc.LSN
		end, received cdc.LSN
		total         int64
		want          bool
	}{
		"much comes":              {above, 1 << 30, 1 << 25, 1 << 25, true},
		"turned off":              {0, 1 << 30, 1 << 25, 1 << 25, false},
		"not far behind":          {above, 1<<25 + above, 1 << 25, 1 << 25, false},
		"ahead of the look":       {above, 1 << 24, 1 << 25, 1 << 25, false},
		"little comes":            {above, 1 << 30, 1 << 23, above / 4, false},
		"a small part of the WAL": {above, 1 << 30, 1 << 28, 1 << 26, false},
		"a third of the WAL":      {above, 1 << 30, 3 << 25, 1<<25 + 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := backlog{above: c.above, lastReceived: 1 << 20, lastTotal: 1000}
			b.observe(c.end+1<<20, c.received+1<<20, c.total+1000)
			if got := b.behind.Load(); got != c.want {
				t.Errorf("got %v", got)
			}
			if b.lastReceived != c.received+1<<20 || b.lastTotal != c.total+1000 {
				t.Errorf("the look was not kept: %s, %d", b.lastReceived, b.lastTotal)
			}
		})
	}
}
