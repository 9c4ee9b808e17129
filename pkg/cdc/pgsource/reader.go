package pgsource

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgoutput"
)

// reader is what a stream knows of the transactions it is reading.
type reader struct {
	dec       pgoutput.Decoder
	relations map[uint32]*relation
	others    map[uint32]bool // tables in stream blocks that are none of ours
	pending   inProgress

	xid    uint32 // of the open stream block
	open   bool   // between Begin and Commit
	begun  bool   // the handler was told of the transaction in event
	warned bool   // of updates
	event  cdc.Event
}

// relation is a table of the publication.
type relation struct {
	*cdc.Relation
	outbox bool // its inserts are events
}

func (in *reader) close() { in.pending.close() }

// read receives messages and hands over what they bring, until something fails.
// A message's bytes are valid until the next is received.
func (st *Stream) read(ctx context.Context, h cdc.Handler) error {
	for {
		// With any other context the receive would allocate. Stop and the end
		// of ctx interrupt it through the deadline.
		msg, err := st.repl.conn.ReceiveMessage(context.Background())
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			if err := st.copyData(ctx, h, m.Data); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("receive: %w", pgconn.ErrorResponseToPgError(m))
		case *pgproto3.CopyDone:
			return errors.New("the server has ended the replication")
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (st *Stream) copyData(ctx context.Context, h cdc.Handler, data []byte) error {
	if len(data) == 0 {
		return errors.New("empty message from the server")
	}
	switch pgoutput.Kind(data[0]) {
	case pgoutput.KindXLogData:
		x, err := pgoutput.DecodeXLogData(data)
		if err != nil {
			return err
		}
		st.seen(x.WALStart)
		return st.message(ctx, h, &x)
	case pgoutput.KindPrimaryKeepalive:
		k, err := pgoutput.DecodePrimaryKeepalive(data)
		if err != nil {
			return err
		}
		st.keepalive(h, k)
		return nil
	}
	return fmt.Errorf("unknown message %q from the server", data[0])
}

// keepalive takes the server's position as idle, but only between transactions.
func (st *Stream) keepalive(h cdc.Handler, k pgoutput.PrimaryKeepalive) {
	st.seen(k.WALEnd)
	st.repl.reader.behind = false
	if !st.in.open && !st.in.dec.InStream() {
		h.Idle(k.WALEnd)
	}
	if k.ReplyRequested {
		st.wakeStatus()
	}
}

// seen raises what was received in this session.
func (st *Stream) seen(lsn cdc.LSN) {
	if uint64(lsn) > st.received.Load() {
		st.received.Store(uint64(lsn)) // this goroutine is the only writer
	}
}

// message handles one message of the plugin.
func (st *Stream) message(ctx context.Context, h cdc.Handler, x *pgoutput.XLogData) error {
	in := &st.in
	if in.dec.InStream() && pgoutput.Kind(x.Data[0]) != pgoutput.KindStreamStop {
		return st.putAside(ctx, x.Data)
	}
	msg, err := in.dec.Decode(x.Data)
	if err != nil {
		return err
	}
	switch m := msg.(type) {
	case *pgoutput.Insert:
		in.event.LSN = x.WALStart
		return st.insert(ctx, h, m)
	case *pgoutput.Begin:
		in.event.Transaction, in.open, in.begun = m.Transaction, true, false
		st.pace(x.ServerTime, m.CommitTime)
	case *pgoutput.Commit:
		return st.commit(h, m.EndLSN)
	case *pgoutput.Relation:
		return st.upsert(ctx, m.Relation)
	case *pgoutput.Update:
		st.warnUpdate(m.RelationID)
	case *pgoutput.StreamStart:
		in.xid = m.XID
	case *pgoutput.StreamAbort:
		in.pending.abort(m.XID, m.SubXID)
	case *pgoutput.StreamCommit:
		st.pace(x.ServerTime, m.CommitTime)
		return st.streamCommit(ctx, h, m)
	}
	return nil
}

// pace tells the socket's reader whether the stream is behind. Both times are the
// server's clock.
func (st *Stream) pace(sent, committed time.Time) {
	st.repl.reader.behind = sent.Sub(committed) > maxFresh
}

// insert hands over one row, if it is of an outbox table.
func (st *Stream) insert(ctx context.Context, h cdc.Handler, m *pgoutput.Insert) error {
	in := &st.in
	rel, ok := in.relations[m.RelationID]
	switch {
	case !ok:
		return fmt.Errorf("insert into relation %d, which the server has not described", m.RelationID)
	case !rel.outbox:
		return nil
	case len(m.Values) != len(rel.Columns):
		return fmt.Errorf("insert into %s.%s: %d values for %d columns", rel.Schema, rel.Name, len(m.Values), len(rel.Columns))
	}
	if !in.begun {
		if err := h.Begin(in.event.Transaction); err != nil {
			return err
		}
		in.begun = true
	}
	in.event.Relation, in.event.Values = rel.Relation, m.Values
	return h.Insert(ctx, &in.event)
}

// commit closes the transaction. One without events is a position, no more.
func (st *Stream) commit(h cdc.Handler, end cdc.LSN) error {
	st.seen(end)
	st.in.open = false
	st.src.metrics.transactions.Inc()
	if !st.in.begun {
		h.Idle(end)
		return nil
	}
	st.in.begun = false
	return h.Commit(end)
}

// upsert takes a table's description, which comes again after any invalidation.
// One that says nothing new keeps its pointer, and what hangs on it.
func (st *Stream) upsert(ctx context.Context, rel *cdc.Relation) error {
	if old, ok := st.in.relations[rel.OID]; ok && reflect.DeepEqual(old.Relation, rel) {
		if old.outbox {
			return nil
		}
		rel = old.Relation // judged again: it may have become a partition of the outbox
	}
	outbox, err := st.isOutbox(ctx, rel)
	if err != nil {
		return err
	}
	if outbox && st.binary {
		for _, c := range rel.Columns {
			if !st.cfg.Binary(c.Type) {
				st.src.textOnly = true
				return fmt.Errorf("column %q of %s.%s has a type that is read as text: opening the stream again in text format", c.Name, rel.Schema, rel.Name)
			}
		}
	}
	st.in.relations[rel.OID] = &relation{rel, outbox}
	return nil
}

// isOutbox reports whether rel is one of the configured tables or a partition
// of one. What the catalog no longer knows, for it was dropped or detached
// since, is judged by its columns.
func (st *Stream) isOutbox(ctx context.Context, rel *cdc.Relation) (bool, error) {
	for _, t := range st.cfg.Tables {
		if t.Schema == rel.Schema && t.Name == rel.Name {
			return true, nil
		}
	}
	conn, err := st.src.connectControl(ctx) // the other session is watched
	if err != nil {
		return false, err
	}
	defer closeConn(conn.PgConn())
	partition, published, err := st.src.lookUp(ctx, conn, rel.OID)
	if err != nil || partition || published {
		return partition, err
	}
	if st.hasColumns(rel) {
		st.cfg.Logger.Warn("rows of a table that has left the publication since: taken for a partition of the outbox", "table", pgx.Identifier{rel.Schema, rel.Name}.Sanitize())
		return true, nil
	}
	return false, nil
}

func (st *Stream) hasColumns(rel *cdc.Relation) bool {
	names := map[string]bool{}
	for _, c := range rel.Columns {
		names[c.Name] = true
	}
	for _, want := range st.cfg.Columns {
		if !names[want] {
			return false
		}
	}
	return true
}

// warnUpdate says once a connection that updates are not events.
func (st *Stream) warnUpdate(oid uint32) {
	rel, ok := st.in.relations[oid]
	if !ok || !rel.outbox || st.in.warned {
		return
	}
	st.in.warned = true
	st.cfg.Logger.Warn("an outbox row was updated: only inserts are events, the update is not published", "table", pgx.Identifier{rel.Schema, rel.Name}.Sanitize())
}
