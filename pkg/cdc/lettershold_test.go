package cdc_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// A log that can hardly be read holds the stream for some seconds at a time, and the
// status says so: other keys go on.
func TestLettersHoldIsBounded(t *testing.T) {
	bothGuarantees(t, []scriptTx{{keys: []string{"a", "b"}, end: 10}}, func(t *testing.T, m *mourner) {
		m.topics.bad["a/0/A/1"] = true
		m.start()
		m.settle()
		time.Sleep(time.Second) // all is saved
		m.topics.set(func() { clear(m.topics.bad); m.topics.logPace = 20 * time.Second })
		m.topics.request(cdc.Request{ID: "r", Action: cdc.Retry, All: true})
		held, end := false, cdc.LSN(10)
		var longest time.Duration
		for range 15 {
			end += 10
			m.server.commit(scriptTx{keys: append(slices.Repeat([]string{"a"}, 6), "b"), end: end})
			begun := time.Now()
			for m.p.Status().Acknowledged < end {
				held = held || m.p.Status().HeldForRetry
				time.Sleep(100 * time.Millisecond)
			}
			longest = max(longest, time.Since(begun))
			time.Sleep(20 * time.Second)
		}
		if !held || longest > 11*time.Second {
			t.Errorf("held %t, for up to %s, want it held for up to 10s", held, longest)
		}
		m.topics.set(func() { m.topics.logPace = 0 })
		time.Sleep(time.Minute)
		m.settle()
		if st := m.p.Status(); st.HeldForRetry {
			t.Errorf("status %+v, want it not to be held", st)
		}
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if n := m.compare(never); n != 0 {
			t.Errorf("%d duplicates, want none", n)
		}
	})
}

// A start does not wait until the log is trimmed.
func TestLettersTrimSlow(t *testing.T) {
	bothGuarantees(t, []scriptTx{{keys: []string{"a"}, end: 10}}, func(t *testing.T, m *mourner) {
		m.topics.trimming = 10 * time.Second
		begun := time.Now()
		m.start()
		m.settle()
		if took := time.Since(begun); took >= 10*time.Second {
			t.Errorf("started after %s", took)
		}
		if err := m.stop(); err != nil || m.topics.trims != 1 {
			t.Errorf("Run() = %v, trimmed %d times, want once", err, m.topics.trims)
		}
	})
}

// A refused row that another process has published meanwhile is forgotten: the back-off
// grows as ever.
func TestLettersRefusedAndPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMourner(t, scriptTx{keys: []string{"a"}, end: 10})
		m.topics.refused["a/0/A/1"] = true
		m.server.onReopen = func() {
			m.server.onReopen = nil
			other := m.store.Open()
			_, err := other.Acquire(t.Context())
			if err := errors.Join(err, other.Save(t.Context(), cdc.Position{SystemID: 7, Timeline: 1, LSN: 10})); err != nil {
				t.Error(err)
			}
		}
		m.start()
		time.Sleep(time.Second)
		m.server.mu.Lock()
		m.server.breaks["b/0/14/1"], m.server.fail = true, errors.New("starting up")
		m.server.mu.Unlock()
		m.server.commit(scriptTx{keys: []string{"b"}, end: 20})
		time.Sleep(time.Hour)
		m.server.mu.Lock()
		if m.server.opens > 3000 {
			t.Errorf("%d streams in an hour, want less and less of them", m.server.opens)
		}
		m.server.fail = nil
		m.server.mu.Unlock()
		m.settle()
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	})
}
