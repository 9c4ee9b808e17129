package checkpointtest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// Memory is a checkpoint in memory, for tests of what uses a [cdc.Store]. It keeps
// the rules of a real one, and fails on demand in the ways of a real one. All its
// stores are safe for concurrent use.
type Memory struct {
	mu    sync.Mutex // guards the rest
	now   cdc.Checkpoint
	fault func(op Op, pos cdc.Position) Fault
}

// Op is a method of a store.
type Op string

// The methods of a store.
const (
	Load    Op = "load"
	Acquire Op = "acquire"
	Save    Op = "save"
)

// Fault is what befalls a call: whether it takes effect, and whether the caller
// is told so. The two are independent, as they are on a real network.
type Fault int

// What can befall a call.
const (
	None            Fault = iota
	Lost                  // it has no effect and fails with ErrFault
	Persisted             // it takes effect and fails with ErrFault
	Silent                // it has no effect and returns when its context ends
	PersistedSilent       // it takes effect and returns when its context ends
)

// ErrFault is the error of a call that fails on demand.
var ErrFault = errors.New("connection reset by the test")

// NewMemory returns a checkpoint that nobody has acquired yet.
func NewMemory() *Memory {
	return &Memory{fault: func(Op, cdc.Position) Fault { return None }}
}

// SetFault makes fault decide about each call from now on. It is given the
// position of a Save, and a zero one else. It must not block, nor use m.
func (m *Memory) SetFault(fault func(op Op, pos cdc.Position) Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

// Heal undoes SetFault.
func (m *Memory) Heal() { m.SetFault(func(Op, cdc.Position) Fault { return None }) }

// Checkpoint returns what is stored, whatever SetFault says.
func (m *Memory) Checkpoint() cdc.Checkpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// Open returns a store of the checkpoint, as a process of its own would have.
func (m *Memory) Open() *MemoryStore { return &MemoryStore{memory: m} }

// MemoryStore is a [cdc.Store] that a Memory has opened.
type MemoryStore struct {
	memory *Memory
	epoch  int64 // of the last Acquire; guarded by memory.mu
}

var _ cdc.Store = (*MemoryStore)(nil)

// Load implements [cdc.Store].
func (s *MemoryStore) Load(ctx context.Context) (cp cdc.Checkpoint, err error) {
	err = s.memory.do(ctx, Load, cdc.Position{}, func(told bool) error {
		if told {
			cp = s.memory.now
		}
		return nil
	})
	return cp, err
}

// Acquire implements [cdc.Store].
func (s *MemoryStore) Acquire(ctx context.Context) (cp cdc.Checkpoint, err error) {
	err = s.memory.do(ctx, Acquire, cdc.Position{}, func(told bool) error {
		s.memory.now.Epoch++
		if told {
			cp, s.epoch = s.memory.now, s.memory.now.Epoch
		}
		return nil
	})
	return cp, err
}

// Save implements [cdc.Store].
func (s *MemoryStore) Save(ctx context.Context, pos cdc.Position) error {
	return s.memory.do(ctx, Save, pos, func(bool) error {
		now := &s.memory.now
		if s.epoch == 0 || s.epoch != now.Epoch {
			return cdc.ErrFenced
		}
		sameHistory := pos.SystemID == now.SystemID && pos.Timeline == now.Timeline
		if !sameHistory || pos.LSN >= now.LSN {
			now.Position = pos
		}
		now.SavedAt = time.Now().UTC()
		return nil
	})
}

// do calls effect unless the call is to have none.
func (m *Memory) do(ctx context.Context, op Op, pos cdc.Position, effect func(told bool) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	fault, err := m.apply(op, pos, effect)
	switch fault {
	case Lost, Persisted:
		return ErrFault
	case Silent, PersistedSilent:
		<-ctx.Done()
		return context.Cause(ctx)
	default:
		return err
	}
}

// apply calls effect with m.mu held. What effect learns must not leave it unless
// the caller is told.
func (m *Memory) apply(op Op, pos cdc.Position, effect func(told bool) error) (Fault, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fault := m.fault(op, pos)
	if fault == Lost || fault == Silent {
		return fault, nil
	}
	return fault, effect(fault == None)
}
