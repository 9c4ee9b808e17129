package clone

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// notes are in memory.
type notes struct {
	mu      sync.Mutex
	byKey   map[string][]byte
	writes  []time.Time
	under   int           // writes under way
	fail    error         // of all calls but Ping
	away    error         // of Ping
	takes   time.Duration // a write
	pinged  int
	read    int
	mostOne bool
}

func (n *notes) Read(_ context.Context, key string) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.read++
	return n.byKey[key], n.fail
}

func (n *notes) Write(ctx context.Context, key string, note []byte) error {
	n.mu.Lock()
	n.under++
	if n.under > 1 {
		n.mostOne = false
	}
	n.writes = append(n.writes, time.Now())
	takes := n.takes
	n.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(takes):
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.under--
	if err := errors.Join(ctx.Err(), n.fail); err != nil {
		return err
	}
	n.byKey[key] = note
	return nil
}

func (n *notes) Ping(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pinged++
	return n.away
}

func (n *notes) set(fail, away error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail, n.away = fail, away
}

func (n *notes) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.writes)
}

// written returns the mark of the slot.
func (n *notes) written(t *testing.T) Mark {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	m, err := parse(n.byKey[key(7, "s", "t")])
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// memory is a store that does what it is told.
type memory struct {
	cp   cdc.Checkpoint
	fail error
}

func (m *memory) Load(context.Context) (cdc.Checkpoint, error) { return m.cp, m.fail }

func (m *memory) Acquire(context.Context) (cdc.Checkpoint, error) {
	m.cp.Epoch++
	return m.cp, m.fail
}

func (m *memory) Save(_ context.Context, pos cdc.Position) error {
	if m.fail == nil {
		m.cp.Position = pos
	}
	return m.fail
}

// origin opens streams on a server.
type origin struct {
	server cdc.Position
	closed int
}

type stream struct {
	cdc.Stream
	from *origin
}

func (s stream) Close() error { s.from.closed++; return nil }

func (o *origin) Open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	_, err := position(ctx, o.server)
	return stream{from: o}, err
}

func (o *origin) Ping(context.Context) error { return nil }
