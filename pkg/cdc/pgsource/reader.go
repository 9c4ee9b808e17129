package pgsource

import (
	"context"
	"errors"
	"fmt"
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
	catalog   *pgx.Conn // for questions; nil until there is one

	at    cdc.LSN // everything that committed before it has been handed over
	xid   uint32  // of the open stream block
	open  bool    // between Begin and Commit
	begun bool    // the handler was told of the transaction in event
	event cdc.Event

	loose   bool        // a message outside of all transactions is handed over, and its end is not known
	looseAt cdc.LSN     // where it lies
	values  []cdc.Value // of a message; used again
}

func (in *reader) close() {
	in.pending.close()
	in.closeCatalog()
}

// read receives messages and hands over what they bring, until something fails or
// the stream is so far behind that it should be pulled. A message's bytes are
// valid until the next is received.
func (st *Stream) read(ctx context.Context, h cdc.Handler) error {
	for {
		msg, err := st.receive(st.repl.Load().conn, st.in.at)
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			if err := st.copyData(ctx, h, m.Data); err != nil {
				return err
			}
		case *pgproto3.CopyDone:
			return errors.New("the server has ended the replication")
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if st.shouldPull() && st.in.atRest() {
			return errBehind
		}
	}
}

const (
	codeUndefinedObject = "42704"

	// publicationRoutine is where a server up to 17 finds that there was no publication yet: the
	// code is that of anything that does not exist.
	publicationRoutine = "get_publication_oid"

	// skippingRoutine is where a server from 18 on warns that it leaves changes
	// out since there was no publication yet (pgoutput.c). The code of the warning
	// has other uses, and its text is translated.
	skippingRoutine = "LoadPublications"
)

// receive returns the next message of a stream or pull that stands at an LSN, or the
// error that it is. With any other
// context the receive would allocate: Stop and the end of the stream interrupt it
// through the deadline.
func (st *Stream) receive(conn *pgconn.PgConn, at cdc.LSN) (pgproto3.BackendMessage, error) {
	msg, err := conn.ReceiveMessage(context.Background())
	if err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	switch m := msg.(type) {
	case *pgproto3.ErrorResponse:
		err := fmt.Errorf("receive: %w", pgconn.ErrorResponseToPgError(m))
		if lacksPublication(m) {
			return nil, st.refuseGap(at, err)
		}
		return nil, err
	case *pgproto3.NoticeResponse:
		if m.Routine == skippingRoutine {
			return nil, st.refuseGap(at, fmt.Errorf("receive: the server warns: %s", m.Message))
		}
		st.logNotice(m)
	}
	return msg, nil
}

// lacksPublication reports whether the server has not found the publication, and nothing else.
func lacksPublication(m *pgproto3.ErrorResponse) bool {
	return m.Code == codeUndefinedObject && m.Routine == publicationRoutine
}

// noticeInterval is the least time between two lines about what the server warns of:
// it may repeat itself every second.
const noticeInterval = time.Minute

func (st *Stream) logNotice(m *pgproto3.NoticeResponse) {
	if now := time.Now(); now.Sub(st.src.noticed) > noticeInterval {
		st.src.noticed = now
		st.cfg.Logger.Warn("the server warns", "message", m.Message, "detail", m.Detail, "hint", m.Hint)
	}
}

// refuseGap is for WAL that was written when there was no such publication: what
// it says of the outbox cannot be read any more.
func (st *Stream) refuseGap(at cdc.LSN, err error) error {
	return cdc.Refuse("drop the slot, run walpost init, and "+cdc.StartAnew+"; "+fromTable,
		"publication %q did not exist yet, or not any more, when WAL after %s was written: %w", st.cfg.Publication, at, err)
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
		return st.keepalive(h, k)
	}
	return fmt.Errorf("unknown message %q from the server", data[0])
}

// keepalive takes the server's position as idle, but only between transactions.
func (st *Stream) keepalive(h cdc.Handler, k pgoutput.PrimaryKeepalive) error {
	st.seen(k.WALEnd)
	st.repl.Load().reader.behind = false
	if k.ReplyRequested {
		st.wakeStatus()
	}
	if st.in.open || st.in.dec.InStream() {
		return nil
	}
	return st.idle(h, k.WALEnd)
}

// idle says that everything that committed before lsn has been handed over.
func (st *Stream) idle(h cdc.Handler, lsn cdc.LSN) error {
	if st.in.loose && lsn <= st.in.looseAt {
		return nil
	}
	if err := st.closeLoose(h, lsn); err != nil {
		return err
	}
	st.in.at = max(st.in.at, lsn)
	h.Idle(lsn)
	return nil
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
	if in.dec.InStream() && len(x.Data) > 0 && pgoutput.Kind(x.Data[0]) != pgoutput.KindStreamStop {
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
	case *pgoutput.LogicalMessage:
		return st.logical(ctx, h, m, x.ServerTime)
	case *pgoutput.Begin:
		if err := st.closeLoose(h, m.CommitLSN); err != nil {
			return err
		}
		in.event.Transaction, in.open, in.begun = m.Transaction, true, false
		st.pace(x.ServerTime, m.CommitTime)
	case *pgoutput.Commit:
		return st.commit(h, m.EndLSN)
	case *pgoutput.Relation:
		return st.upsert(ctx, m.Relation)
	case *pgoutput.Update:
		return st.update(m.RelationID)
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

// pace tells the socket's reader of a commit: how fast they come, and whether the stream is
// behind. Both times are the server's clock.
func (st *Stream) pace(sent, committed time.Time) {
	if repl := st.repl.Load(); repl != nil { // a replay has none
		repl.reader.rate.commit(committed)
		repl.reader.behind = sent.Sub(committed) > maxFresh
	}
}

// insert hands over one row, if it is of an outbox table.
func (st *Stream) insert(ctx context.Context, h cdc.Handler, m *pgoutput.Insert) error {
	in := &st.in
	rel, ok := in.relations[m.RelationID]
	switch {
	case !ok:
		return fmt.Errorf("insert into relation %d, which the server has not described", m.RelationID)
	case rel.was != "":
		return refuseRenamed(rel)
	case !rel.outbox:
		return nil
	case len(m.Values) != len(rel.Columns):
		return fmt.Errorf("insert into %s.%s: %d values for %d columns", rel.Schema, rel.Name, len(m.Values), len(rel.Columns))
	}
	return st.event(ctx, h, rel.Relation, m.Values)
}

// event hands over one row, and before the first of a transaction that.
func (st *Stream) event(ctx context.Context, h cdc.Handler, rel *cdc.Relation, values []cdc.Value) error {
	select {
	case <-st.stopped: // the context may not be done yet
		return errStopped
	default:
	}
	in := &st.in
	if !in.begun {
		if err := h.Begin(in.event.Transaction); err != nil {
			return err
		}
		in.begun = true
	}
	in.event.Relation, in.event.Values = rel, values
	return h.Insert(ctx, &in.event)
}

// commit closes the transaction. One without events is a position, no more.
func (st *Stream) commit(h cdc.Handler, end cdc.LSN) error {
	st.seen(end)
	st.in.open = false
	st.src.metrics.transactions.Inc()
	if !st.in.begun {
		return st.idle(h, end)
	}
	st.in.begun = false
	st.in.at = max(st.in.at, end)
	return h.Commit(end)
}

// update says that updates are not events, or refuses to go on.
func (st *Stream) update(oid uint32) error {
	rel, ok := st.in.relations[oid]
	switch {
	case !ok || !rel.outbox:
		return nil
	case st.cfg.RefuseUpdates:
		return cdc.Refuse("find out what updates it. Set outbox.update to warn to go on, which does not publish the update; a publication with publish = 'insert' has none",
			"a row of the outbox table %s.%s was updated in the transaction committed at %s: only inserts are events", rel.Schema, rel.Name, st.in.event.Transaction.CommitLSN)
	}
	st.warnOnce(rel.Relation, "an outbox row was updated: only inserts are events, the update is not published")
	return nil
}
