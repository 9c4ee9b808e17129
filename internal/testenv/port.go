package testenv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
)

// Ports are taken from below the range from which systems give ports to
// outgoing connections, so that none of those is in the way when a server
// starts again.
const (
	firstPort = 20000
	lastPort  = 32000
)

// lastTaken counts the ports this process has taken, from a random one on.
var lastTaken = func() *atomic.Uint32 {
	var taken atomic.Uint32
	taken.Store(rand.Uint32N(lastPort - firstPort))
	return &taken
}()

// freePort returns a port of the loopback address that nobody listens on, and that it has
// not returned to this process before, until it has been round: two listeners of a server
// never get the same one, nor does anybody get that of a server that is down for a moment.
// Somebody outside this process may listen on it by the time it is used.
func freePort(ctx context.Context) (int, error) {
	const tries = 100
	var err error
	for range tries {
		port := int(firstPort + lastTaken.Add(1)%(lastPort-firstPort))
		if err = portFree(ctx, port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

// portFree returns an error if port cannot be listened on.
func portFree(ctx context.Context, port int) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address(port))
	if err != nil {
		return err
	}
	return l.Close()
}

// portTaken reports whether somebody else listens on port.
func portTaken(ctx context.Context, port int) bool {
	return errors.Is(portFree(ctx, port), syscall.EADDRINUSE)
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
