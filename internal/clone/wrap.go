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

// Open implements [cdc.Source].
func (s *source) Open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	g := s.guard
	st, err := s.Source.Open(ctx, func(ctx context.Context, server cdc.Position) (cdc.Position, error) {
		g.mu.Lock()
		g.server = server
		g.mu.Unlock()
		return position(ctx, server)
	})
	if err != nil {
		return nil, err
	}
	if err := g.check(ctx); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return st, nil
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
