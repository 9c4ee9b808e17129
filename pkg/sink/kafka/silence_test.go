package kafka

import (
	"net"
	"sync"
)

// silence is a network that answers nothing while it is on, and forgets nothing.
type silence struct {
	mu sync.Mutex
	on chan struct{} // guarded by mu; closed when the silence ends, nil if there is none
}

func newSilence() *silence { return new(silence) }

func (s *silence) set(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case on && s.on == nil:
		s.on = make(chan struct{})
	case !on && s.on != nil:
		close(s.on)
		s.on = nil
	}
}

func (s *silence) wrap(conn net.Conn) net.Conn {
	return &silentConn{Conn: conn, silence: s, closed: make(chan struct{})}
}

type silentConn struct {
	net.Conn
	silence *silence
	once    sync.Once
	closed  chan struct{}
}

// Read delivers what came in only when the silence is over.
func (c *silentConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.silence.mu.Lock()
	on := c.silence.on
	c.silence.mu.Unlock()
	if on != nil {
		select {
		case <-on:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (c *silentConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
