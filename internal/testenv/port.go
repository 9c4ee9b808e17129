package testenv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
)

// Ports are taken from below the range from which systems give ports to
// outgoing connections, so that none of those is in the way when a server
// starts again.
const (
	firstPort = 20000
	lastPort  = 32000
)

// freePort returns a port of the loopback address that nobody listens on.
// Somebody may by the time it is used.
func freePort(ctx context.Context) (int, error) {
	const tries = 100
	var err error
	for range tries {
		port := firstPort + rand.IntN(lastPort-firstPort)
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
