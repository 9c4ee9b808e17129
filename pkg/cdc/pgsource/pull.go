package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgoutput"
)

// A walsender sends each message by itself, three for a transaction of one row,
// and a reader that keeps up is woken for each. The same messages come several
// times faster as the result of a query on a copy of the slot. So a backlog is
// pulled, in chunks of WAL; the stream takes over where the last chunk ends.

const (
	// pullChunk is how much WAL a chunk covers. The server decodes a chunk
	// from the copy's restart_lsn, which moves only every 15 s and not past
	// an open transaction: so a chunk is half of what is decoded again, if
	// that is more. It keeps a chunk's messages in memory and temporary files.
	pullChunk    = 64 << 20
	maxPullChunk = 256 << 20

	// maxRedecode is how much the server may have to decode again for a chunk.
	// Beyond it streaming is better.
	maxRedecode = 1 << 30

	// minPullShare is the part of a chunk that the messages must have come to.
	// With less, the time goes into decoding WAL that is none of ours, once in
	// streaming and more than once in pulling.
	minPullShare = 16

	// advanceBytes is how much confirmed WAL the live slot may keep while it is
	// not streamed from, and advanceInterval for how long: each move makes the
	// server decode from the slot's restart_lsn.
	advanceBytes    = 256 << 20
	advanceInterval = 10 * time.Second

	// stallLimit is how long one row may wait to be handed over.
	stallLimit = 10 * time.Second

	// advanceTimeout bounds the last advance of the slot at a stop.
	advanceTimeout = 10 * time.Second
)

// errBehind says that what follows should be pulled.
var errBehind = errors.New("the stream is behind")

// errStalled says that nothing could be handed over for a while: a query must not
// stay open for as long as an outage of the sink, since it holds vacuum back.
var errStalled = errors.New("nothing could be handed over for some seconds: what follows is streamed")

// errGuarded says that standbys must have what is sent from the slot, which a copy of the
// slot would not wait for.
var errGuarded = errors.New("synchronized_standby_slots guards the slot")

// backlog sees when the stream has fallen behind, and when a pull is stalled.
type backlog struct {
	above  cdc.LSN       // how far the stream may be behind; zero: as far as it likes
	limit  time.Duration // how long a row of a pull may wait
	behind atomic.Bool   // there is enough to pull
	off    bool          // not to be pulled any more in this stream; owned by the goroutine that reads

	calling atomic.Int64                            // since when a row of a pull waits to be handed over, as [cdc.Stamp]
	cancel  atomic.Pointer[context.CancelCauseFunc] // ends the pull; nil while none runs

	lastTotal int64 // of the last look; owned by watch
}

// observe is called from time to time with the end of WAL, what was received of it
// and how many bytes have come from the server. A stream that is behind although
// little comes is waiting for the server to decode, or for the sink.
func (b *backlog) observe(end, received cdc.LSN, total int64) {
	if b.above > 0 && end > received && end-received > b.above && total-b.lastTotal > int64(b.above)/4 {
		b.behind.Store(true)
	}
	b.lastTotal = total
	since := b.calling.Load()
	if cancel := b.cancel.Load(); cancel != nil && since != 0 && time.Since(cdc.Stamped(since)) > b.limit {
		(*cancel)(errStalled)
	}
}

// shouldPull reports whether what follows is to be pulled.
func (st *Stream) shouldPull() bool {
	return st.backlog.behind.Load() && !st.backlog.off
}

// atRest reports whether everything that was begun has been handed over.
func (in *reader) atRest() bool {
	return !in.open && !in.dec.InStream() && len(in.pending.txs) == 0
}

// puller is a session with a copy of the slot.
type puller struct {
	conn *pgconn.PgConn
	slot string // the copy: temporary, so it goes with the session

	restart, at cdc.LSN // where the copy decodes from, and how far it has been read
	end         cdc.LSN // of WAL
	pulled      int64   // bytes of messages
}

// pull hands over the backlog, and returns nil where the stream has to go on.
func (st *Stream) pull(ctx context.Context, h cdc.Handler) error {
	st.backlog.behind.Store(false)
	p, err := st.openPuller(ctx)
	if err == nil {
		st.cfg.Logger.Info("pulling a backlog", "from_lsn", st.in.at.String(), "bytes", uint64(p.end-st.in.at))
		err = st.pullAll(ctx, h, p)
		p.close(err != nil)
	}
	if err == nil {
		st.cfg.Logger.Info("backlog pulled", "lsn", st.in.at.String(), "bytes", p.pulled)
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var refused *cdc.RefusedError
	var pgErr *pgconn.PgError
	switch {
	case errors.Is(err, errGuarded):
		st.cfg.Logger.Info("the backlog is streamed, not pulled", "because", err)
		st.backlog.off = true
		return nil
	case errors.As(err, &pgErr) && pgErr.Code != codeAdminShutdown && !errors.As(err, &refused) && !st.in.begun:
		st.cfg.Logger.Warn("cannot pull the backlog, streaming it instead", "error", err)
		st.backlog.off, st.in.open = true, false
		return nil
	}
	st.src.streamNext = errors.Is(err, errStalled) || pgErr != nil
	return fmt.Errorf("pull from a copy of slot %q: %w", st.cfg.Slot, err)
}

// openPuller makes a copy of the slot that stands where the stream does. The copy
// of a slot stands where the slot is confirmed, which is further back.
func (st *Stream) openPuller(ctx context.Context) (*puller, error) {
	conn, _, err := st.src.connectDecoding(ctx, "")
	if err != nil {
		return nil, err
	}
	p := &puller{conn: conn, slot: pullPrefix(st.cfg.Slot) + strconv.FormatUint(uint64(conn.PID()), 10)}
	if err := st.checkUnguarded(ctx, conn); err != nil {
		p.close(false)
		return nil, err
	}
	for _, query := range []string{
		"SET statement_timeout = 0",
		fmt.Sprintf("SELECT lsn FROM pg_copy_logical_replication_slot(%s, %s, temporary => true)", literal(st.cfg.Slot), literal(p.slot)),
		advanceQuery(p.slot, st.in.at),
	} {
		if _, err := conn.Exec(ctx, query).ReadAll(); err != nil {
			p.close(true)
			return nil, fmt.Errorf("copy slot: %w", err)
		}
	}
	if err := p.look(ctx); err != nil {
		p.close(true)
		return nil, err
	}
	return p, nil
}

// checkUnguarded returns errGuarded if the server holds what it sends from the slot back
// until standbys have it. It does so for failover slots only, and the copy is none.
// https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONIZED-STANDBY-SLOTS
func (st *Stream) checkUnguarded(ctx context.Context, conn *pgconn.PgConn) error {
	row, err := queryRow(ctx, conn, "SELECT coalesce(current_setting('synchronized_standby_slots', true), '') <> '' AND coalesce((to_jsonb(s)->>'failover')::boolean, false)"+
		" FROM pg_replication_slots s WHERE slot_name = "+literal(st.cfg.Slot), 1)
	if err == nil && row[0] == "t" {
		return errGuarded
	}
	return err
}

// close ends the session, and what the server may still be doing in it.
func (p *puller) close(busy bool) {
	if busy {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = p.conn.CancelRequest(ctx) // the server would notice the closed connection only when it sends
	}
	closeConn(p.conn)
}

// look asks where the copy stands.
func (p *puller) look(ctx context.Context) error {
	row, err := queryRow(ctx, p.conn, "SELECT restart_lsn, confirmed_flush_lsn, "+endOfWAL+" FROM pg_replication_slots WHERE slot_name = "+literal(p.slot), 3)
	if err != nil {
		return fmt.Errorf("look at the copy of the slot: %w", err)
	}
	for i, lsn := range []*cdc.LSN{&p.restart, &p.at, &p.end} {
		if *lsn, err = cdc.ParseLSN(row[i]); err != nil {
			return fmt.Errorf("look at the copy of the slot: %w", err)
		}
	}
	return nil
}

// pullAll pulls chunks until one has reached the end of WAL as it was when the
// chunk was begun.
func (st *Stream) pullAll(ctx context.Context, h cdc.Handler, p *puller) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	st.backlog.cancel.Store(&cancel)
	defer st.backlog.cancel.Store(nil)
	if err := st.listen(p.conn); err != nil {
		return err
	}
	defer func() { _ = st.listen(nil) }() // stopped meanwhile: then ctx is done
	advanced, last := st.confirmable(), time.Now()
	for p.at < p.end {
		if p.at-p.restart > maxRedecode {
			st.backlog.off = true
			st.cfg.Logger.Warn("pulling is slow, since the server decodes much again for each chunk: streaming instead; an old transaction may be open",
				"restart_lsn", p.restart.String(), "lsn", p.at.String())
			return nil
		}
		chunk := min(max(pullChunk, (p.at-p.restart)/2), maxPullChunk)
		from, goal, before := p.at, min(p.at+chunk, p.end), p.pulled
		if err := st.pullTo(ctx, h, p, goal); err != nil {
			return err
		}
		known := p.end
		if err := p.look(ctx); err != nil {
			return err
		}
		st.seen(p.at)
		st.idle(h, p.at)
		if goal == known || p.pulled-before < int64(goal-from)/minPullShare {
			return nil
		}
		if now := st.confirmable(); now-advanced > advanceBytes || time.Since(last) > advanceInterval {
			if err := st.advance(ctx, p.conn); err != nil {
				return err
			}
			advanced, last = now, time.Now()
		}
	}
	return nil
}

// pullTo hands over the transactions that have committed before goal, and perhaps
// one that commits behind it.
func (st *Stream) pullTo(ctx context.Context, h cdc.Handler, p *puller, goal cdc.LSN) error {
	query := fmt.Sprintf("COPY (SELECT lsn, data FROM pg_logical_slot_get_binary_changes(%s, '%s', NULL, 'proto_version', '1', %s)) TO STDOUT (FORMAT binary)",
		literal(p.slot), goal, strings.Join(st.pluginArgs(", "), ", "))
	p.conn.Frontend().SendQuery(&pgproto3.Query{String: query})
	if err := p.conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("send query: %w", err)
	}
	for {
		msg, err := st.receive(p.conn)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			p.pulled += int64(len(m.Data))
			if err := st.copyRow(ctx, h, m.Data); err != nil {
				return err
			}
		case *pgproto3.ReadyForQuery:
			return nil
		}
	}
}

func (st *Stream) copyRow(ctx context.Context, h cdc.Handler, data []byte) error {
	x, ok, err := pgoutput.DecodeCopyRow(data)
	if err != nil || !ok {
		return err
	}
	st.seen(x.WALStart)
	st.backlog.calling.Store(cdc.Stamp(time.Now()))
	defer st.backlog.calling.Store(0)
	return st.message(ctx, h, &x)
}

// advance moves the slot to what is confirmed, while it is not streamed from.
func (st *Stream) advance(ctx context.Context, conn *pgconn.PgConn) error {
	lsn := st.confirmable()
	if _, err := conn.Exec(ctx, advanceQuery(st.cfg.Slot, lsn)).ReadAll(); err != nil {
		return fmt.Errorf("advance slot %q to %s: %w", st.cfg.Slot, lsn, err)
	}
	st.src.metrics.confirmed.Set(float64(lsn))
	return nil
}

// advanceQuery moves a slot forward to lsn, and does nothing if it stands there.
func advanceQuery(slot string, lsn cdc.LSN) string {
	return fmt.Sprintf("SELECT pg_replication_slot_advance(slot_name, '%s') FROM pg_replication_slots WHERE slot_name = %s AND confirmed_flush_lsn < '%s'",
		lsn, literal(slot), lsn)
}
