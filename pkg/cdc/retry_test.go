package cdc_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
)

// A stream that breaks is not held against the next one. When two in a row have ended
// soon, the next is trusted only once it has lived for some seconds, and until then
// the status says what broke them.
func TestPipelineProbation(t *testing.T) {
	for breaks, trusted := range map[int]bool{0: true, 1: true, 2: false, 4: false} {
		t.Run(fmt.Sprintf("%d", breaks), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, scriptTx{keys: []string{"a", "b", "c", "d", "e"}, end: 10})
				for _, event := range []string{"a/0/A/1", "b/0/A/2", "c/0/A/3", "d/0/A/4"}[:breaks] {
					r.server.breaks[event] = true
				}
				ctx, cancel := context.WithCancel(t.Context())
				p, sink := r.process()
				ended := make(chan error, 1)
				go func() { ended <- p.Run(ctx) }()
				time.Sleep(3 * time.Second) // the breaks are over
				st := p.Status()
				if st.State != cdc.Streaming || (st.Circuit == circuit.Closed) != trusted || (st.Err == nil) != trusted {
					t.Errorf("after %d breaks: %s, circuit %s, error %v", breaks, st.State, st.Circuit, st.Err)
				}
				time.Sleep(5 * time.Second)
				if st := p.Status(); st.Circuit != circuit.Closed || st.Err != nil {
					t.Errorf("5 s later: circuit %s, error %v", st.Circuit, st.Err)
				}
				cancel()
				if err := <-ended; err != nil {
					t.Errorf("Run() = %v", err)
				}
				sink.Close()
				if n := r.check(); n != 0 {
					t.Errorf("%d duplicates", n)
				}
			})
		})
	}
}

// The circuit is open, or tried, while the source fails, also for long, and a source
// that answers is tried again every few seconds at least.
func TestPipelineCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, script...)
		ctx, cancel := context.WithCancel(t.Context())
		p, sink := r.process()
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(time.Second)
		r.server.mu.Lock()
		r.server.fail, r.server.breaks["a/0/32/1"] = errBroken, true
		r.server.mu.Unlock()
		r.server.commit(scriptTx{keys: []string{"a"}, end: 50})
		time.Sleep(time.Hour)
		if st := p.Status(); st.State != cdc.Connecting || st.Circuit != circuit.Open || st.Err == nil {
			t.Errorf("%s, circuit %s, error %v, want connecting with an open circuit and why", st.State, st.Circuit, st.Err)
		}
		r.server.mu.Lock()
		r.server.fail = nil
		r.server.mu.Unlock()
		time.Sleep(3 * time.Second)
		if st := p.Status(); st.State != cdc.Streaming || st.Circuit != circuit.Closed {
			t.Errorf("%s, circuit %s, 3 s after the server is well again", st.State, st.Circuit)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v", err)
		}
		sink.Close()
		r.check()
	})
}
