package main

import (
	"slices"
	"testing"
)

// The bench's process sees neither where our spans go nor our service manager, nor
// settings that it was not given.
func TestBenchEnviron(t *testing.T) {
	environ := []string{
		"PATH=/bin", "OTELLO=kept", "WALPOST_OUTBOX_TABLE=orders", "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318",
		"NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=1000", "WATCHDOG_PID=1",
	}
	before := slices.Clone(environ)
	if got, want := unhidden(environ), []string{"PATH=/bin", "OTELLO=kept"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !slices.Equal(environ, before) {
		t.Errorf("changed its argument to %q", environ)
	}
}
