package pgsource

import (
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// readBuffer is how much one read of the socket takes at most. pgconn reads 8 KB
// at a time, which is 20 system calls where one does while the stream is behind.
const readBuffer = 256 << 10

const (
	// While the stream is behind, what comes is gathered for maxGather with a
	// pause before each read.
	pause     = 250 * time.Microsecond
	maxGather = 5 * time.Millisecond

	// maxFresh is the age at which a commit, when it is sent, shows that the
	// stream is behind.
	maxFresh = 100 * time.Millisecond

	// While commits are less than maxDense apart in the mean, reads are at least
	// spacing apart, and up to twice that: the runtime's timers have milliseconds.
	maxDense = 600 * time.Microsecond
	spacing  = time.Millisecond

	// meanOf is over how many commits that mean is, roughly.
	meanOf = 64

	// maxGap is a quiet time, after which the mean begins anew with it: some 160 commits
	// in a row are fast then, before a read waits.
	maxGap = 10 * maxDense
)

// socketReader buffers what comes from the server, and knows how long the server
// has been silent.
//
// While the stream is behind it reads rarely and much. The server sends each
// message by itself, three for a transaction of one row. A reader that keeps up
// is woken for each, and hands over records by ones and twos, which fill no
// batch: on a small machine both are taken from the server. Events that are late
// lose nothing by a few milliseconds more.
//
// While it keeps up with thousands of commits a second, each of the wake-ups, requests
// and fetches on the way to a consumer would be for one or two events, and on a small
// machine they wait for each other: there a read comes at most each millisecond. With
// fewer commits, and after a quiet time, there is no pause.
//
// Neither is done over TLS, where a read brings one record, which is one message. The
// socket's buffers are left alone: with a receive window smaller than a loopback
// packet the sender waits for its persist timer.
type socketReader struct {
	src    io.Reader
	raw    syscall.RawConn // of the socket itself; nil if it has none, or is encrypted
	behind bool            // owned by the goroutine that reads
	rate   commitRate      // the same

	buf  []byte
	r, w int

	total    atomic.Int64 // bytes that have come
	reading  atomic.Bool  // a read of the socket is under way
	lastRead atomic.Int64 // when the last read began, or its bytes came, as [cdc.Stamp]
}

// Read implements [io.Reader].
func (s *socketReader) Read(b []byte) (int, error) {
	if s.r == s.w {
		if s.buf == nil {
			s.buf = make([]byte, readBuffer)
		}
		if len(b) >= len(s.buf) {
			return s.fill(b)
		}
		n, err := s.fill(s.buf)
		if err != nil {
			return 0, err
		}
		s.r, s.w = 0, n
	}
	n := copy(b, s.buf[s.r:s.w])
	s.r += n
	return n, nil
}

// fill reads the socket once.
func (s *socketReader) fill(b []byte) (int, error) {
	if d := s.wait(); d > 0 {
		time.Sleep(d)
	}
	s.lastRead.Store(cdc.Stamp(time.Now())) // what came before, a handler may have been busy with for long
	s.reading.Store(true)
	n, err := s.src.Read(b)
	s.reading.Store(false)
	if n == 0 {
		return 0, err
	}
	now := time.Now()
	s.lastRead.Store(cdc.Stamp(now))
	if s.behind && s.takesAll() && err == nil {
		n += s.gather(b[n:], now.Add(maxGather))
	}
	s.total.Add(int64(n))
	return n, nil // an error comes again
}

// wait is how long the next read is to wait, so that reads are spacing apart.
func (s *socketReader) wait() time.Duration {
	if s.behind || !s.takesAll() || !s.rate.dense() {
		return 0 // gather has its own pauses
	}
	return max(0, spacing-time.Since(cdc.Stamped(s.lastRead.Load())))
}

// takesAll reports whether a read brings all that waits in the socket, and that can be told.
// Else a pause before each would be one for each message.
func (s *socketReader) takesAll() bool { return tellsWaiting && s.raw != nil }

// commitRate knows how far apart commits are. Its zero value knows of none.
type commitRate struct {
	last time.Time
	mean time.Duration // between commits; 0 before the first
}

// commit notes when a transaction was committed, by the server's clock.
func (c *commitRate) commit(at time.Time) {
	gap := max(at.Sub(c.last), 0) // clocks step back, and commits overtake each other
	c.last = at
	if c.mean == 0 || gap >= maxGap {
		c.mean = maxGap
		return
	}
	c.mean += (gap - c.mean) / meanOf
}

// dense reports whether commits come so fast that it is better to take several at once.
func (c *commitRate) dense() bool { return c.mean > 0 && c.mean < maxDense }

// gather reads on until b is nearly full or the deadline has passed. It never waits for bytes that are not there.
func (s *socketReader) gather(b []byte, deadline time.Time) int {
	n := 0
	for len(b)-n > readBuffer/8 && time.Now().Before(deadline) {
		nap(pause)
		if s.available() == 0 {
			continue
		}
		m, err := s.src.Read(b[n:])
		n += m
		if err != nil {
			break
		}
	}
	return n
}

// available returns how many bytes the socket holds.
func (s *socketReader) available() (n int) {
	if s.raw == nil || s.raw.Control(func(fd uintptr) { n = waiting(fd) }) != nil {
		return 0
	}
	return n
}

// silence is how long a read has been waiting for the server. It is zero while
// nobody reads, since then the silence is ours. Safe to call from any goroutine.
func (s *socketReader) silence() time.Duration {
	last := s.lastRead.Load()
	if !s.reading.Load() || last == 0 {
		return 0
	}
	return time.Since(cdc.Stamped(last))
}
