package pgsource

import (
	"bytes"
	"net"
	"testing"
	"testing/iotest"
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
	if !c.dense() || c.mean < 0 {
		t.Errorf("after steps of the clock the mean is %s", c.mean)
	}
	commits(&c, 1, time.Hour)
	if c.dense() {
		t.Error("still dense after an hour")
	}
	for range 100 {
		commits(&c, 50, time.Microsecond)
		commits(&c, 1, time.Second)
		if c.dense() {
			t.Fatal("fifty commits once a second are dense")
		}
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
	s, other := socketPair(t)
	go func() {
		_, _ = other.Write(make([]byte, 10*reads))
	}()
	read := func(n int) {
		for range n {
			if _, err := s.fill(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	commits(&s.rate, 1000, 100*time.Microsecond)
	begun := time.Now()
	read(reads)
	if took := time.Since(begun); tellsWaiting && took < (reads-1)*spacing {
		t.Errorf("%d reads in %s, less than %s apart", reads, took, spacing)
	}
	s.behind = true // gather has pauses of its own
	if s.wait() != 0 {
		t.Error("a stream that is behind waits twice")
	}
	s.behind = false
	raw := s.raw
	if s.raw = nil; s.wait() != 0 {
		t.Error("waits over TLS, where a read brings one message")
	}
	s.raw, s.rate = raw, commitRate{}
	if s.wait() != 0 {
		t.Error("waits without many commits")
	}
}

// Where a read brings one message, as over TLS, none is held back while the stream is behind:
// it would never catch up.
func TestNothingIsGatheredByMessages(t *testing.T) {
	s := &socketReader{src: iotest.OneByteReader(bytes.NewReader(make([]byte, 2000))), behind: true}
	begun := time.Now()
	for range 1000 {
		if _, err := s.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took > 1000*maxGather/2 {
		t.Errorf("a thousand reads of what was there took %s", took)
	}
}

// The times of commits reach the reader of the socket.
func TestPace(t *testing.T) {
	st := idle()
	at := time.Unix(1_764_270_000, 0)
	for range 1000 {
		at = at.Add(100 * time.Microsecond)
		st.pace(at, at)
	}
	if r := st.repl.Load().reader; !r.rate.dense() || r.behind {
		t.Errorf("ten thousand commits a second that are sent at once: mean %s, behind %t", r.rate.mean, r.behind)
	}
	if st.pace(at.Add(time.Second), at); !st.repl.Load().reader.behind {
		t.Error("a commit that is sent after a second is not behind")
	}
}

// socketPair returns a reader of a socket, and the other end.
func socketPair(t *testing.T) (*socketReader, net.Conn) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return &socketReader{src: c, raw: raw}, other
}
