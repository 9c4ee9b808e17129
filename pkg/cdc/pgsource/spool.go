package pgsource

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"
)

// spool is a queue of bytes between two goroutines, in a file of limited size: what
// the writer gets without waiting for the reader costs no memory. It holds size bytes;
// then Write waits.
type spool struct {
	file  *os.File      // has no name
	size  int64         // bytes; the file's beginning is used again
	limit time.Duration // how long Write may wait in all, until it is given anew

	written, read atomic.Int64  // in all
	more, room    chan struct{} // tell the other side to look again
	ended         chan struct{} // closed by end
	abandoned     chan struct{} // closed by abandon
	err           error         // that Read returns at the end; set before ended is closed

	waited time.Duration // by Write; owned by the writer
}

// errStalled says that nothing was taken for a while: a query must not stay open for
// as long as an outage of the sink, since it holds vacuum back.
var errStalled = errors.New("nothing could be handed over for some seconds: what follows is streamed")

var errAbandoned = errors.New("nobody reads any more")

// spoolError is a failure of the file.
type spoolError struct{ error }

func (e *spoolError) Unwrap() error { return e.error }

// newSpool makes the file in dir. The spool must be closed.
func newSpool(dir string, size int64, limit time.Duration) (*spool, error) {
	f, err := os.CreateTemp(dir, "walpost-*.pull")
	if err != nil {
		return nil, &spoolError{err}
	}
	// Without a name it goes when the process goes.
	if err := os.Remove(f.Name()); err != nil {
		return nil, &spoolError{errors.Join(err, f.Close())}
	}
	return &spool{
		file: f, size: size, limit: limit,
		more: make(chan struct{}, 1), room: make(chan struct{}, 1), ended: make(chan struct{}), abandoned: make(chan struct{}),
	}, nil
}

// Write implements [io.Writer]. It fails with errStalled when it has waited too long
// for the reader.
func (s *spool) Write(b []byte) (n int, err error) {
	for n < len(b) {
		at := s.written.Load()
		free := s.size - (at - s.read.Load())
		if free == 0 {
			if err := s.await(); err != nil {
				return n, err
			}
			continue
		}
		at %= s.size
		m, err := s.file.WriteAt(b[n:n+int(min(free, s.size-at, int64(len(b)-n)))], at)
		n += m
		s.written.Add(int64(m))
		signal(s.more)
		if err != nil {
			return n, &spoolError{err}
		}
	}
	return n, nil
}

// awaitHalf waits until no more than half of what the spool holds is taken.
func (s *spool) awaitHalf() error {
	s.waited = 0
	for s.written.Load()-s.read.Load() > s.size/2 {
		if err := s.await(); err != nil {
			return err
		}
	}
	return nil
}

// await waits until something was read.
func (s *spool) await() error {
	begun := time.Now()
	timer := time.NewTimer(s.limit - s.waited)
	defer timer.Stop()
	defer func() { s.waited += time.Since(begun) }()
	select {
	case <-s.room:
		return nil
	case <-s.abandoned:
		return errAbandoned
	case <-timer.C:
		return errStalled
	}
}

// Read implements [io.Reader]. After the last byte it returns what end was given.
func (s *spool) Read(b []byte) (int, error) {
	for {
		at := s.read.Load()
		if have := s.written.Load() - at; have > 0 {
			at %= s.size
			n, err := s.file.ReadAt(b[:min(have, s.size-at, int64(len(b)))], at)
			s.read.Add(int64(n))
			signal(s.room)
			if err != nil {
				return n, &spoolError{err}
			}
			return n, nil
		}
		select {
		case <-s.more:
		case <-s.ended:
			if s.written.Load() == s.read.Load() {
				return 0, s.err
			}
		}
	}
}

// end says that nothing more is written, because of err or, if that is nil, since all
// was written.
func (s *spool) end(err error) {
	s.err = err
	if err == nil {
		s.err = io.EOF
	}
	close(s.ended)
}

// abandon says that nothing more is read. It must be called once.
func (s *spool) abandon() { close(s.abandoned) }

func (s *spool) close() { _ = s.file.Close() } // nothing in it is needed any more

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
