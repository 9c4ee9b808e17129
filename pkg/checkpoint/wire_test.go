package checkpoint

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// trouble is what a wire does to a connection.
type trouble int

const (
	healthy trouble = iota
	refused         // no connection is made, and those there are break
	noReply         // what is sent arrives; the answer is lost and the connection breaks
	silence         // what is sent arrives; no answer ever comes
)

var errWire = errors.New("connection reset by the test")

// wire stands between stores and their server.
type wire struct {
	mu  sync.Mutex // guards now
	now trouble
}

func (w *wire) set(now trouble) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = now
}

func (w *wire) get() trouble {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// faults are the troubles as checkpointtest.Harness wants them.
func (w *wire) faults() map[string]func(*testing.T) func() {
	faults := map[string]func(*testing.T) func(){}
	for name, kind := range map[string]trouble{"Refused": refused, "NoReply": noReply, "Silence": silence} {
		faults[name] = func(*testing.T) func() {
			w.set(kind)
			return func() { w.set(healthy) }
		}
	}
	return faults
}

// attach makes s connect through w.
func (w *wire) attach(s *session) {
	dial := s.config.DialFunc
	s.config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if w.get() == refused {
			return nil, errWire
		}
		conn, err := dial(ctx, network, addr)
		return &wireConn{Conn: conn, wire: w}, err
	}
}

type wireConn struct {
	net.Conn
	wire *wire
}

func (c *wireConn) Write(b []byte) (int, error) {
	if c.wire.get() == refused {
		return 0, errors.Join(errWire, c.Close())
	}
	return c.Conn.Write(b)
}

func (c *wireConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		switch now := c.wire.get(); {
		case err != nil || now == healthy:
			return n, err
		case now != silence:
			return 0, errors.Join(errWire, c.Close())
		}
	}
}
