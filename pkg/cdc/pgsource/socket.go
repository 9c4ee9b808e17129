package pgsource

import (
	"io"
	"sync/atomic"
	"time"
)

// readBuffer is how much one read of the socket takes at most. pgconn reads 8 KB
// at a time, which is 20 system calls where one does while the stream is behind.
const readBuffer = 256 << 10

// socketReader buffers what comes from the server, and knows how long the server
// has been silent.
type socketReader struct {
	src  io.Reader
	buf  []byte
	r, w int

	reading  atomic.Bool  // a read of the socket is under way
	lastRead atomic.Int64 // when bytes last came, or the first read began, in Unix ns
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
	s.lastRead.CompareAndSwap(0, time.Now().UnixNano())
	s.reading.Store(true)
	n, err := s.src.Read(b)
	s.reading.Store(false)
	if n > 0 {
		s.lastRead.Store(time.Now().UnixNano())
		return n, nil
	}
	return n, err
}

// silence is how long a read has been waiting for the server. It is zero while
// nobody reads, since then the silence is ours. Safe to call from any goroutine.
func (s *socketReader) silence() time.Duration {
	last := s.lastRead.Load()
	if !s.reading.Load() || last == 0 {
		return 0
	}
	return time.Since(time.Unix(0, last))
}
