package pgsource

import (
	"context"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgoutput"
)

// Messages says how what pg_logical_emit_message writes becomes events.
type Messages struct {
	// Prefix is that of the messages which are events. All others are passed over.
	Prefix string

	// Relation describes a message as a row.
	Relation *cdc.Relation

	// Values appends to dst what a message's content holds, as a row of Relation. What
	// it returns is valid until the next call. Content that it cannot read must become a
	// row that a router takes for poison.
	Values func(content []byte, dst []cdc.Value) []cdc.Value
}

// logical handles a message. One that belongs to a transaction is a row of that. Any other
// is a transaction of its own, of one row, whose commit record is the message; where it
// ends is not known until something comes behind it, for no position may be invented.
func (st *Stream) logical(ctx context.Context, h cdc.Handler, m *pgoutput.LogicalMessage, sent time.Time) error {
	in := &st.in
	if st.cfg.Messages == nil || string(m.Prefix) != st.cfg.Messages.Prefix {
		return nil
	}
	in.event.LSN = m.LSN
	in.values = st.cfg.Messages.Values(m.Content, in.values[:0])
	if m.Transactional {
		return st.event(ctx, h, st.cfg.Messages.Relation, in.values)
	}
	if err := st.closeLoose(h, m.LSN); err != nil {
		return err
	}
	if sent.IsZero() { // pulled, and nobody knows when it was written
		sent = time.Now()
	}
	in.event.Transaction = cdc.Transaction{CommitLSN: m.LSN, CommitTime: sent}
	in.begun, in.loose, in.looseAt = false, true, m.LSN
	return st.event(ctx, h, st.cfg.Messages.Relation, in.values)
}

// closeLoose ends a message outside of all transactions, now that what comes next is known
// to lie at an LSN.
func (st *Stream) closeLoose(h cdc.Handler, next cdc.LSN) error {
	in := &st.in
	if !in.loose {
		return nil
	}
	in.loose, in.begun = false, false
	in.at = max(in.at, next)
	return h.Commit(next)
}
