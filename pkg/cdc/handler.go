package cdc

import (
	"context"
	"errors"
	"fmt"
)

// handler is the pipeline as its stream sees it.
type handler Pipeline

// errStopping ends a stream that hands over something after it was stopped.
var errStopping = errors.New("pipeline is stopping")

func (h *handler) Begin(tx Transaction) error {
	h.handing.Lock()
	defer h.handing.Unlock()
	if h.rest.asked.Load() && (h.tx == nil || h.resumed) {
		h.rest.wait()
		return errStopping
	}
	switch {
	case h.stopping:
		return errStopping
	case h.tx == nil:
		h.tx = h.acks.Begin(tx)
		h.handed = 0
	case !h.resumed:
		return errors.New("begin inside a transaction")
	case h.cut != tx.CommitLSN:
		return h.vanished(fmt.Sprintf("did not come again: the next one is of %s", tx.CommitLSN))
	default:
		h.tx.resume(tx)
	}
	h.cut, h.ordinal, h.resumed = tx.CommitLSN, 0, false
	return nil
}

// vanished refuses to go on when a transaction that was published in part is not
// in the server's history any more.
func (h *handler) vanished(how string) error {
	return Refuse("the server's history has changed: find out what the consumers have seen, then "+StartAnew,
		"the transaction committed at %s, of which %d rows were published before the stream was cut, %s", h.cut, h.handed, how)
}

func (h *handler) Insert(ctx context.Context, ev *Event) error {
	h.handing.Lock()
	defer h.handing.Unlock()
	switch {
	case h.stopping:
		return errStopping
	case h.tx == nil || h.resumed:
		return errors.New("insert outside a transaction")
	}
	h.ordinal++
	ev.Ordinal = h.ordinal
	if h.ordinal <= h.handed {
		return h.recognize(ev)
	}
	r, poison, err := h.route(ev)
	if errors.Is(err, ErrSkip) {
		r.Free()
		h.handed++
		h.lastID = h.lastID[:0]
		return nil
	}
	if err != nil {
		return h.poison(ctx, "route", err, ev, r)
	}
	if err := h.tx.Add(ctx); err != nil {
		return err
	}
	r.tx, r.CommitLSN, r.Ordinal = h.tx, ev.Transaction.CommitLSN, h.ordinal
	size := len(r.Key) + len(r.Value)
	id := append(h.spareID[:0], r.ID...) // from Produce on r is the sink's
	if err := h.send(ctx, r, poison, ev.Relation); err != nil {
		h.tx.Withdraw()
		return h.poison(ctx, "produce", err, ev, r)
	}
	h.handed++
	h.lastID, h.spareID = id, h.lastID
	if h.cfg.Transactional {
		h.txn.took(size, ev.Transaction.CommitTime)
	}
	return nil
}

// route makes a record of the event. With dead letters poison is no error, but
// comes with a record of what could be read.
func (h *handler) route(ev *Event) (*Record, *PoisonError, error) {
	r, err := h.cfg.Route(ev)
	if r == nil {
		r = NewRecord()
	}
	if err == nil {
		return r, nil, nil
	}
	var poison *PoisonError
	errors.As(err, &poison)
	if h.letters.lots == nil || poison == nil {
		return r, nil, err
	}
	return r, poison, nil
}

// recognize passes over a row that was handed over before the stream broke. If the
// last of them is another one than it was, then other rows are counted now, as with
// another setting of the source: the transaction is published again as a whole.
func (h *handler) recognize(ev *Event) error {
	if h.ordinal < h.handed {
		return nil
	}
	r, _, err := h.route(ev)
	if (err == nil || errors.Is(err, ErrSkip)) && string(r.ID) == string(h.lastID) {
		r.Free()
		return nil
	}
	if h.cfg.Transactional {
		return Refuse("set outbox.table, the publication and outbox.id back to what they were until this transaction is published, or find out what the consumers have seen and start anew with another slot",
			"the transaction committed at %s, of which %d rows are published, came again with other rows: publishing it again would repeat events", h.cut, h.handed)
	}
	h.differs = true
	return fmt.Errorf("the transaction committed at %s, of which %d rows were published before the stream was cut, came again with other rows: publishing it again", h.cut, h.handed)
}

// poison ends the pipeline, and waits for that: everything before the event is
// still to be delivered and confirmed, on the living stream.
func (h *handler) poison(ctx context.Context, doing string, err error, ev *Event, r *Record) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errUnsaved):
		return err
	}
	if h.cfg.Transactional && !isFinal(err) {
		return (*Pipeline)(h).spoil(err)
	}
	r.CommitLSN, r.Ordinal = ev.Transaction.CommitLSN, h.ordinal
	err = describe(err, r, ev.Relation.qualified()) // before the text is taken
	var p *PoisonError
	if errors.As(err, &p) {
		(*Pipeline)(h).countFailed(p.Reason)
	}
	(*Pipeline)(h).fail(fmt.Errorf("%s: %w", doing, err))
	<-ctx.Done()
	return context.Cause(ctx)
}

func (h *handler) Commit(end LSN) error {
	h.handing.Lock()
	defer h.handing.Unlock()
	switch {
	case h.stopping:
		return errStopping
	case h.tx == nil || h.resumed:
		return errors.New("commit outside a transaction")
	case h.ordinal < h.handed:
		return h.vanished(fmt.Sprintf("came again with %d", h.ordinal))
	}
	h.tx.Commit(end)
	h.tx = nil
	h.received.Store(max(h.received.Load(), uint64(end)))
	switch {
	case !h.cfg.Transactional:
	case h.handed > 0:
		h.txn.ended()
	default:
		h.txn.moved(end)
	}
	return nil
}

func (h *handler) Idle(lsn LSN) {
	h.acks.Idle(lsn)
	h.received.Store(max(h.received.Load(), uint64(lsn)))
	if h.cfg.Transactional {
		h.txn.moved(lsn)
	}
}
