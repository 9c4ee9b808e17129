package pgsource

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

const (
	// readBuffer is how much one read of the socket takes at most.
	readBuffer = 256 << 10

	// pause is the wait after each read of a paced socket.
	pause = 500 * time.Microsecond

	// pacedWindow is the receive buffer of a paced socket. The kernel doubles it.
	pacedWindow = 16 << 10

	// maxFresh is the age at which a commit, when it is sent, shows that the
	// stream is behind.
	maxFresh = 100 * time.Millisecond
)

// pacedReader buffers what comes from the socket, and reads rarely and much
// while the stream is behind. While a reader keeps up with a walsender, each
// message costs the server a packet and a wake-up; while it pauses, the closed
// window makes the kernel coalesce what is sent. That halves the time of a
// backlog over loopback TCP. A pause is latency, so there is none while the
// stream is caught up; a Unix socket gains nothing by it; and a real network
// coalesces by itself, and needs its window.
type pacedReader struct {
	src    io.Reader
	paced  bool
	behind bool // owned by the goroutine that reads

	buf  []byte
	r, w int

	reading  atomic.Bool  // a read of the socket is under way
	lastRead atomic.Int64 // when bytes last came, in Unix ns
}

// attach prepares the connection that src will read from.
func (p *pacedReader) attach(c net.Conn) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	addr, ok := tcp.RemoteAddr().(*net.TCPAddr)
	if !ok || !addr.IP.IsLoopback() {
		return nil
	}
	p.paced = true
	return tcp.SetReadBuffer(pacedWindow)
}

// Read implements [io.Reader].
func (p *pacedReader) Read(b []byte) (int, error) {
	if p.r == p.w {
		if p.buf == nil {
			p.buf = make([]byte, readBuffer)
		}
		if len(b) >= len(p.buf) {
			return p.fill(b)
		}
		n, err := p.fill(p.buf)
		if err != nil {
			return 0, err
		}
		p.r, p.w = 0, n
	}
	n := copy(b, p.buf[p.r:p.w])
	p.r += n
	return n, nil
}

// fill reads the socket once.
func (p *pacedReader) fill(b []byte) (int, error) {
	if p.paced && p.behind {
		time.Sleep(pause)
	}
	p.lastRead.CompareAndSwap(0, time.Now().UnixNano())
	p.reading.Store(true)
	n, err := p.src.Read(b)
	p.reading.Store(false)
	if n > 0 {
		p.lastRead.Store(time.Now().UnixNano())
		return n, nil
	}
	return n, err
}

// silence is how long a read has been waiting for the server. It is zero while
// nobody reads, since then the silence is ours. Safe to call from any goroutine.
func (p *pacedReader) silence() time.Duration {
	last := p.lastRead.Load()
	if !p.reading.Load() || last == 0 {
		return 0
	}
	return time.Since(time.Unix(0, last))
}
