package cdc

import (
	"context"
	"errors"
	"fmt"
)

// handler is the pipeline as its stream sees it.
type handler Pipeline

func (h *handler) Begin(tx Transaction) error {
	switch {
	case h.tx == nil:
		h.tx = h.acks.Begin(tx)
		h.ordinal, h.handed = 0, 0
	case !h.resumed:
		return errors.New("begin inside a transaction")
	case h.tx.info.CommitLSN != tx.CommitLSN:
		return fmt.Errorf("the transaction committed at %s, which was cut off, did not come again: got %s", h.tx.info.CommitLSN, tx.CommitLSN)
	}
	h.resumed = false
	return nil
}

func (h *handler) Insert(ctx context.Context, ev *Event) error {
	if h.tx == nil || h.resumed {
		return errors.New("insert outside a transaction")
	}
	h.ordinal++
	if h.ordinal <= h.handed {
		return nil // handed over before the stream broke
	}
	r, err := h.cfg.Route(ev)
	if err != nil {
		return h.poison(ctx, fmt.Errorf("route: %w", err), ev, new(Record))
	}
	if err := h.tx.Add(ctx); err != nil {
		return err
	}
	r.tx, r.CommitLSN, r.Ordinal = h.tx, ev.Transaction.CommitLSN, h.ordinal
	if err := h.cfg.Sink.Produce(ctx, r, h.done); err != nil {
		h.tx.Withdraw()
		return h.poison(ctx, fmt.Errorf("produce: %w", err), ev, r)
	}
	h.handed++
	return nil
}

// poison ends the pipeline, and waits for that: everything before the event is
// still to be delivered and confirmed, on the living stream.
func (h *handler) poison(ctx context.Context, err error, ev *Event, r *Record) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.CommitLSN, r.Ordinal = ev.Transaction.CommitLSN, h.ordinal
	err = describe(err, r)
	var p *PoisonError
	if errors.As(err, &p) && p.Table == "" {
		p.Table = ev.Relation.Schema + "." + ev.Relation.Name
	}
	(*Pipeline)(h).fail(err)
	<-ctx.Done()
	return context.Cause(ctx)
}

func (h *handler) Commit(end LSN) error {
	if h.tx == nil || h.resumed {
		return errors.New("commit outside a transaction")
	}
	if h.ordinal < h.handed {
		return fmt.Errorf("the transaction that ends at %s came again with %d rows, after %d were handed over", end, h.ordinal, h.handed)
	}
	h.tx.Commit(end)
	h.tx = nil
	h.received.Store(max(h.received.Load(), uint64(end)))
	return nil
}

func (h *handler) Idle(lsn LSN) {
	h.acks.Idle(lsn)
	h.received.Store(max(h.received.Load(), uint64(lsn)))
}
