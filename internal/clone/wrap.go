package clone

import (
	"context"
	"errors"

	"github.com/walpost/walpost/pkg/cdc"
)

// Source returns inner with the guard before its streams: a stream is opened once the
// server has turned out to be no copy. The store of the pipeline must be that of Store.
//
// It is checked before the checkpoint is acquired, which a refusal leaves as it is, and
// once a missing slot is made, which keeps what is committed while Kafka is away.
func (g *Guard) Source(inner cdc.Source) cdc.Source { return &source{inner, g} }

type source struct {
	cdc.Source
	guard *Guard
}

// Open implements [cdc.Source]. It looks twice before it refuses: while it waited for the
// brokers another instance may have had the slot, and noted what was not to be seen before.
func (s *source) Open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	var earlier *suspicion
	for {
		st, err := s.open(ctx, position)
		if err != nil {
			return nil, err
		}
		err = s.guard.check(ctx, earlier)
		if err == nil {
			return st, nil
		}
		again := earlier == nil && errors.As(err, &earlier)
		if cerr := st.Close(); !again || cerr != nil {
			return nil, errors.Join(err, cerr)
		}
	}
}

// open opens a stream of the inner source, and notes what the server says of itself.
func (s *source) open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	return s.Source.Open(ctx, func(ctx context.Context, server cdc.Position) (cdc.Position, error) {
		s.guard.mu.Lock()
		s.guard.server = server
		s.guard.mu.Unlock()
		return position(ctx, server)
	})
}

// Store returns inner, of whose saves the guard is told.
func (g *Guard) Store(inner cdc.Store) cdc.Store { return &store{inner, g} }

type store struct {
	cdc.Store
	guard *Guard
}

// Load implements [cdc.Store].
func (s *store) Load(ctx context.Context) (cdc.Checkpoint, error) {
	cp, err := s.Store.Load(ctx)
	if err == nil {
		s.guard.mu.Lock()
		s.guard.loaded = cp
		s.guard.mu.Unlock()
	}
	return cp, err
}

// Acquire implements [cdc.Store].
func (s *store) Acquire(ctx context.Context) (cdc.Checkpoint, error) {
	cp, err := s.Store.Acquire(ctx)
	if err == nil {
		g := s.guard
		g.mu.Lock()
		defer g.mu.Unlock()
		g.mine, g.epoch = true, cp.Epoch
		g.saved(cp.Position) // in the new epoch
	}
	return cp, err
}

// Save implements [cdc.Store].
func (s *store) Save(ctx context.Context, pos cdc.Position) error {
	err := s.Store.Save(ctx, pos)
	g := s.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil:
		g.saved(pos)
	case errors.Is(err, cdc.ErrFenced):
		g.mine, g.due = false, cdc.Position{} // what follows is the other's to note
	}
	return err
}

// saved makes a mark due if there is something new in it. g.mu must be held.
func (g *Guard) saved(pos cdc.Position) {
	pos.Partial = cdc.Partial{}
	if now := (mark{pos, g.epoch}); !pos.IsZero() && now != g.noted {
		g.due, g.noted = pos, now
		g.signal()
	}
}
