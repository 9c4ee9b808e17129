package circuit

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBreaker(t *testing.T) {
	b := New(100*time.Millisecond, time.Second)
	expect := func(when string, want State) {
		t.Helper()
		if got := b.State(); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	expect("at first", Closed)
	b.Try()
	b.FailTry()
	expect("a try of a closed circuit", Closed)
	b.Fail()
	expect("failed", Open)
	b.Try()
	expect("tried", HalfOpen)
	b.FailTry()
	expect("failed again", Open)
	b.Try()
	b.Succeed()
	expect("succeeded", Closed)
}

// Each wait is twice the last, never more than the longest, and half of it random.
func TestWaits(t *testing.T) {
	b := New(100*time.Millisecond, time.Second)
	for round := range 100 {
		for i, limit := range []time.Duration{100, 200, 400, 800, 1000, 1000, 1000} {
			limit *= time.Millisecond
			if got := b.Fail(); got < limit/2-1 || got > limit+1 {
				t.Fatalf("round %d, wait %d = %s, want between half of %s and all of it", round, i, got, limit)
			}
		}
		b.Hurry()
	}
}

// Five failures a second for half a minute make four lines a reason.
func TestRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		var r Repeats
		log := slog.New(slog.NewTextHandler(&out, nil))
		for i := range 5 * 30 {
			r.Log(log, slog.LevelWarn, WithoutNumbers(fmt.Sprintf("refused on port %d", 40000+i)), "cannot connect", "try", i)
			if i%5 == 0 {
				r.Log(log, slog.LevelWarn, "reset", "interrupted")
			}
			time.Sleep(200 * time.Millisecond)
		}
		if n := strings.Count(out.String(), "cannot connect"); n != 3 {
			t.Errorf("%d lines in 30 s, want 3:\n%s", n, out.String())
		}
		if n := strings.Count(out.String(), "left_out=49"); n != 2 {
			t.Errorf("%d lines say that 49 were left out, want 2:\n%s", n, out.String())
		}
		if !strings.Contains(out.String(), "interrupted") {
			t.Error("another subject was left out")
		}
		r.Forget()
		out.Reset()
		r.Log(log, slog.LevelWarn, "reset", "interrupted")
		if out.Len() == 0 {
			t.Error("left out though forgotten")
		}
	})
}

// What is remembered is bounded.
func TestRepeatsAreBounded(t *testing.T) {
	var r Repeats
	for i := range 10 * maxSubjects {
		r.due(strings.Repeat("x", i), time.Now())
	}
	if len(r.last) > maxSubjects {
		t.Errorf("%d subjects, want at most %d", len(r.last), maxSubjects)
	}
}
