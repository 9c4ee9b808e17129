package guard

import (
	"context"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgoutput"
)

// stream hands over what messages bring, as pgsource's does, whose own reader is in
// that package's tests. Of a transaction in progress it keeps the messages as they are.
type stream struct {
	dec      pgoutput.Decoder
	relation *cdc.Relation
	event    cdc.Event
	aside    [][]byte
}

func (st *stream) take(ctx context.Context, h cdc.Handler, messages []message) error {
	for _, data := range messages {
		x, err := pgoutput.DecodeXLogData(data)
		if err != nil {
			return err
		}
		if st.dec.InStream() && pgoutput.Kind(x.Data[0]) == pgoutput.KindInsert {
			st.aside = append(st.aside, x.Data)
			continue
		}
		m, err := st.dec.Decode(x.Data)
		if err != nil {
			return err
		}
		if err := st.handle(ctx, h, m); err != nil {
			return err
		}
	}
	return nil
}

func (st *stream) handle(ctx context.Context, h cdc.Handler, m pgoutput.Message) error {
	switch m := m.(type) {
	case *pgoutput.Relation:
		st.relation = m.Relation
	case *pgoutput.Begin:
		st.event.Transaction = m.Transaction
		return h.Begin(m.Transaction)
	case *pgoutput.Insert:
		st.event.Relation, st.event.Values = st.relation, m.Values
		return h.Insert(ctx, &st.event)
	case *pgoutput.Commit:
		return h.Commit(m.EndLSN)
	case *pgoutput.StreamCommit:
		return st.commitStreamed(ctx, h, m)
	}
	return nil
}

func (st *stream) commitStreamed(ctx context.Context, h cdc.Handler, c *pgoutput.StreamCommit) error {
	st.event.Transaction = c.Transaction
	if err := h.Begin(c.Transaction); err != nil {
		return err
	}
	for _, data := range st.aside {
		m, err := st.dec.DecodeStreamed(data)
		if err != nil {
			return err
		}
		if err := st.handle(ctx, h, m); err != nil {
			return err
		}
	}
	st.aside = st.aside[:0]
	return h.Commit(c.EndLSN)
}

// router is a handler that makes a record of each row, and gives it back.
type router struct {
	route func(*cdc.Event) (*cdc.Record, error)
}

func (router) Begin(cdc.Transaction) error { return nil }
func (router) Commit(cdc.LSN) error        { return nil }
func (router) Idle(cdc.LSN)                {}

func (r router) Insert(_ context.Context, ev *cdc.Event) error {
	rec, err := r.route(ev)
	if err != nil {
		return err
	}
	rec.Free()
	return nil
}
