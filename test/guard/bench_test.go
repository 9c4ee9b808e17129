package guard

import (
	"testing"

	"github.com/walpost/walpost/pkg/outbox"
)

// BenchmarkDecodeRoute is a transaction of one row, from the server's bytes to a record.
func BenchmarkDecodeRoute(b *testing.B) {
	measure(b, running{b.Context(), router{newRouter(b, outbox.Config{}).Route}})
}

// BenchmarkEvent is the same through a pipeline, acknowledged.
func BenchmarkEvent(b *testing.B) {
	underPipeline(b, config(b, outbox.Config{}), func(r running) { measure(b, r) })
}

func measure(b *testing.B, r running) {
	b.Helper()
	step := stepOf(b, r, shapes[0])
	for range 4 * inFlight {
		step()
	}
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
}
