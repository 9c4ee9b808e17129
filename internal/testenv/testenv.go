// Package testenv starts a Postgres and a Kafka for tests and for the demo.
//
// [StartPostgres] and [StartKafka] take the first source that has what is
// asked for: a running server named in the environment, a container, the
// programs on this machine, or a download. Servers listen on the loopback
// address only. All that a server writes is in one folder, which its Close
// removes. On Linux no server outlives the process that started it.
//
// The package does not depend on testing; what a test needs is in
// [github.com/walpost/walpost/internal/testenv/envtest].
package testenv

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// The environment variables that name running servers.
const (
	PostgresVariable = "WALPOST_TEST_POSTGRES" // a superuser's DSN
	KafkaVariable    = "WALPOST_TEST_KAFKA"    // host:port, comma-separated
)

var (
	// ErrUnavailable means that this machine offers no such server.
	ErrUnavailable = errors.New("no server available")

	// ErrExternal means that the server was not started here, so it cannot
	// be stopped, killed or started.
	ErrExternal = errors.New("the server was named in the environment, and is not ours to stop or start")

	// errExited means that a server's program ended before it was ready.
	errExited = errors.New("the server has exited")
)

// Source is where a server comes from.
type Source string

// The sources, in the order in which they are tried.
const (
	Environment Source = "environment" // a running server named in the environment
	Container   Source = "container"   // a Docker engine
	Programs    Source = "programs"    // what is installed; for Kafka, Java and Maven
	Embedded    Source = "embedded"    // a download into a cache; Postgres only
)

// Process is the program of a server while it runs.
type Process interface {
	// Signal sends sig to the program, and for SIGSTOP waits until all of it
	// has stopped. It is an error once the program has ended.
	Signal(sig syscall.Signal) error

	// Kill ends the program and its children at once, leaving them no
	// chance to clean up, and waits until they are gone or ctx is done.
	Kill(ctx context.Context) error

	// Done is closed once the program has ended.
	Done() <-chan struct{}
}

// Image says how to run a server in a container.
type Image struct {
	Name  string            // with its tag
	Env   map[string]string //
	Files map[string]string // content by path, copied in before the first start
	Ports map[int]int       // container's port by port of the host's loopback address
}

// Instance is a container, which keeps its files over stops and starts.
type Instance interface {
	Start(ctx context.Context) (Process, error)
	Remove(ctx context.Context) error
}

// Engine makes containers.
type Engine interface {
	// Create makes a container that is not started yet. The error is an
	// [ErrUnavailable] if no engine answers.
	Create(ctx context.Context, image Image) (Instance, error)
}

// pollInterval is the time between two looks at something that gives no signal.
const pollInterval = 20 * time.Millisecond

// poll calls ready until it returns nil or ctx is done, and then returns the
// last error.
func poll(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil || errors.Is(err, errExited) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%w, last: %w", context.Cause(ctx), err)
		}
	}
}

// firstOf calls start for each source until one is available.
func firstOf[T any](sources []Source, start func(Source) (T, error)) (T, error) {
	var reasons error
	for _, source := range sources {
		server, err := start(source)
		if err == nil || !errors.Is(err, ErrUnavailable) {
			return server, err
		}
		reasons = errors.Join(reasons, fmt.Errorf("%s: %w", source, err))
	}
	var none T
	return none, reasons
}

// ended returns errExited if p has ended.
func ended(p Process) error {
	select {
	case <-p.Done():
		return errExited
	default:
		return nil
	}
}

// waitEnd waits until p has ended.
func waitEnd(ctx context.Context, p Process) error {
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
