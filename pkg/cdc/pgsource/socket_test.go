package pgsource

import (
	"bytes"
	"testing"
	"time"
)

// commits notes n commits that are apart from each other.
func commits(c *commitRate, n int, apart time.Duration) {
	for range n {
		c.commit(c.last.Add(apart))
	}
}

func TestCommitRate(t *testing.T) {
	var c commitRate
	if c.dense() {
		t.Error("dense before the first commit")
	}
	c.commit(time.Unix(1_764_270_000, 0))
	commits(&c, 10_000, time.Millisecond)
	if c.dense() {
		t.Error("a thousand a second are dense")
	}
	commits(&c, 1000, 200*time.Microsecond)
	if !c.dense() {
		t.Error("five thousand a second are not dense")
	}
	c.commit(c.last.Add(-time.Hour)) // the clock steps back
	c.commit(c.last.Add(time.Hour))
	if !c.dense() || c.mean < 0 {
		t.Errorf("after steps of the clock the mean is %s", c.mean)
	}
	commits(&c, 20, 100*time.Millisecond)
	if c.dense() {
		t.Error("still dense at ten a second")
	}
	commits(&c, 300, 200*time.Microsecond)
	if !c.dense() {
		t.Error("a burst after a quiet time is not noticed in 60 ms")
	}
}

// A stream that keeps up with very many commits is read at most once in so long; any other
// at once.
func TestReadsAreSpaced(t *testing.T) {
	const reads = 20
	read := func(s *socketReader) time.Duration {
		begun := time.Now()
		for range reads {
			if _, err := s.fill(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(begun)
	}
	s := &socketReader{src: bytes.NewReader(make([]byte, 4*reads))}
	commits(&s.rate, 1000, 100*time.Microsecond)
	if took := read(s); took < (reads-1)*spacing {
		t.Errorf("%d reads in %s, less than %s apart", reads, took, spacing)
	}
	s.behind = true // gather has pauses of its own
	if s.wait() != 0 {
		t.Error("a stream that is behind waits twice")
	}
	s.behind, s.rate = false, commitRate{}
	if s.wait() != 0 {
		t.Error("waits without many commits")
	}
}
