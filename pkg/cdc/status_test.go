package cdc_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// Lag is told from what is known: of a standby nothing is.
func TestLag(t *testing.T) {
	now := time.Unix(100_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for name, tt := range map[string]struct {
		s    cdc.Status
		want time.Duration
	}{
		"CaughtUp":                  {cdc.Status{State: cdc.Streaming, CaughtUp: ago(time.Hour)}, 0},
		"Behind":                    {cdc.Status{State: cdc.Streaming, CaughtUp: ago(time.Hour), Oldest: ago(time.Second)}, time.Second},
		"Connecting":                {cdc.Status{State: cdc.Connecting, CaughtUp: ago(time.Hour)}, time.Hour},
		"BrokenBehind":              {cdc.Status{State: cdc.Connecting, CaughtUp: ago(time.Minute), Oldest: ago(time.Second)}, time.Minute},
		"Standby":                   {cdc.Status{State: cdc.Connecting, CaughtUp: ago(time.Hour), Standby: true}, 0},
		"StandbyThatStreamedBefore": {cdc.Status{State: cdc.Connecting, CaughtUp: ago(time.Hour), Oldest: ago(time.Hour), Standby: true, StoodBy: now}, 0},
		"TakesOver":                 {cdc.Status{State: cdc.Connecting, CaughtUp: ago(time.Hour), StoodBy: ago(time.Second)}, time.Second},
		"TookOver":                  {cdc.Status{State: cdc.Streaming, CaughtUp: ago(time.Hour), StoodBy: ago(time.Minute), Oldest: ago(time.Second)}, time.Second},
		"BrokenAfterTakeOver":       {cdc.Status{State: cdc.Connecting, CaughtUp: ago(time.Minute), StoodBy: ago(time.Hour)}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tt.s.Lag(now); got != tt.want {
				t.Errorf("Lag() = %s, want %s", got, tt.want)
			}
		})
	}
}

// A stream that ends with something unacknowledged is behind since then, not since the
// process was last caught up at the end of a stream.
func TestLagOfBrokenStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script[0])
		r.server.breaks["a/0/1E/1"] = true
		r.server.onBreak = func() { r.server.fail = errBroken }
		p, sink := r.process()
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(time.Hour)
		sink.Outage(true)
		r.server.commit(script[1:]...)
		time.Sleep(time.Minute)
		if st := p.Status(); st.State != cdc.Connecting || st.Lag(time.Now()) != time.Minute {
			t.Errorf("%s with a lag of %s, want 1m", st.State, st.Lag(time.Now()))
		}
		cancel()
		<-ended
	})
}
