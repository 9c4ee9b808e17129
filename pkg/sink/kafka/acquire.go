package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/walpost/walpost/pkg/cdc"
)

// acquireRounds bounds how often an Acquire ends what it finds open and looks again.
const acquireRounds = 3

// acquire makes the sink of a new epoch. t.mu must be held.
func (t *Transactional) acquire(ctx context.Context, key string) (cdc.Checkpoint, error) {
	if err := t.createMissing(ctx); err != nil {
		return cdc.Checkpoint{}, err
	}
	if err := t.askEnding(ctx, key); err != nil { // which taking the id over makes the coordinator forget
		return cdc.Checkpoint{}, err
	}
	for range acquireRounds {
		s, found, err := t.take(ctx, key)
		if err != nil {
			return cdc.Checkpoint{}, err
		}
		open, err := t.leftOpen(ctx, s, found.Topics)
		if err != nil {
			return cdc.Checkpoint{}, err
		}
		if len(open) == 0 {
			return t.publish(ctx, s, key, found)
		}
		if err := t.end(ctx, s, open, found); err != nil {
			return cdc.Checkpoint{}, err
		}
	}
	return cdc.Checkpoint{}, errors.New("transactions that were left open in Kafka do not end")
}

// take makes the sink of a new epoch, and reads what was committed before.
func (t *Transactional) take(ctx context.Context, key string) (*Sink, found, error) {
	last := t.current.Load()
	if last == nil {
		last = t.base
	}
	s, err := last.next(&openTransaction{name: transactionPrefix + key, progress: t.cfg.Topic, asks: t.base})
	if err != nil {
		return nil, found{}, err
	}
	if last != t.base {
		last.Close()
	}
	t.current.Store(s)
	// Once there is an answer the predecessor is fenced, and its transaction is
	// ended on every partition, or should be: see leftOpen.
	if _, _, err := s.client.Load().ProducerID(ctx); err != nil {
		return nil, found{}, fmt.Errorf("take transactional id %s over: %w", s.txn.name, fenced(err))
	}
	f, err := t.read(ctx, key)
	return s, f, err
}

// publish commits what was found, as this owner's.
func (t *Transactional) publish(ctx context.Context, s *Sink, key string, f found) (cdc.Checkpoint, error) {
	have := f.content
	have.key, have.Slot, have.Owner = key, t.cfg.Slot, t.cfg.Owner
	have.Epoch++
	t.spoil = nil
	if err := t.commit(ctx, s, have); err != nil {
		return cdc.Checkpoint{}, err
	}
	return have.Checkpoint, nil
}

// next returns a sink that writes in transactions. It takes over what
// outlives an epoch from s, which nobody uses any more.
func (s *Sink) next(txn *openTransaction) (*Sink, error) {
	n := &Sink{
		cfg: s.cfg, log: s.log, metrics: s.metrics, budget: s.budget, health: s.health,
		quit: make(chan struct{}), txn: txn,
	}
	err := n.init()
	for _, t := range s.topics.known {
		if !t.stale.Load() { // else it is another now, and met as such
			n.topics.add(t)
		}
	}
	return n, err
}
