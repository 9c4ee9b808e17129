package pgsource

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgoutput"
)

const (
	// firstChunk is how much WAL the first chunk covers, which shows what the backlog
	// is. pullChunk is how much those after it cover, or more until that many bytes of
	// messages are to be expected: the server keeps them in memory and temporary files.
	// It decodes a chunk from the copy's restart_lsn, which moves only every 15 s and
	// not past an open transaction: so a chunk covers half of what is decoded again, up
	// to maxPullChunk, if that is more.
	firstChunk   = 16 << 20
	pullChunk    = 64 << 20
	maxPullChunk = 256 << 20

	// maxRedecode is how much the server may have to decode again for a chunk.
	// Beyond it streaming is better.
	maxRedecode = 1 << 30

	// minPullShare is the part of a chunk that the messages must have come to, or it
	// has brought little. Unless a transaction of ours is under way there, the time
	// goes into decoding WAL that is none of ours, once in streaming and more than once
	// in pulling. At a quarter both take about as long.
	minPullShare = 4

	// advanceBytes is how much confirmed WAL the live slot may keep while it is
	// not streamed from, and advanceInterval for how long: each move makes the
	// server decode from the slot's restart_lsn.
	advanceBytes    = 256 << 20
	advanceInterval = 10 * time.Second

	// farChunk is how much WAL the chunk covers that is to bring a transaction larger
	// than a chunk in whole, with its commit. It stays below maxRedecode, since what
	// precedes the commit is decoded again. probeChunk is how much is decoded to see
	// whether there is one.
	farChunk   = maxRedecode - maxPullChunk
	probeChunk = 8 << 20

	// spoolSize is how many bytes may wait in the file to be handed over, and
	// stallLimit how long a chunk may wait, in all, for room in it.
	spoolSize  = 256 << 20
	stallLimit = 30 * time.Second

	// spoolBuffer is written to the file at once.
	spoolBuffer = 64 << 10

	// advanceTimeout bounds the last advance of the slot at a stop.
	advanceTimeout = 10 * time.Second
)

// errRedecoded says that the server must decode too much again for each chunk.
var errRedecoded = errors.New("the server decodes much again for each chunk")

// puller is a session with a copy of the slot.
type puller struct {
	conn   *pgconn.PgConn
	reader *socketReader // of conn
	quiet  int           // looks in a row at which the server had sent what did not come; owned by watch
	slot   string        // the copy: temporary, so it goes with the session

	restart, at cdc.LSN // where the copy decodes from, and how far it has been read
	end         cdc.LSN // of WAL, at the last look
	pulled      int64   // bytes of messages
}

// openPuller makes a copy of the slot that stands where the stream does. The copy
// of a slot stands where the slot is confirmed, which is further back. With unguarded it
// returns errGuarded for a slot that the server holds back.
func (st *Stream) openPuller(ctx context.Context, unguarded bool) (*puller, error) {
	conn, reader, err := st.src.connectDecoding(ctx, "")
	if err != nil {
		return nil, err
	}
	p := &puller{conn: conn, reader: reader, slot: pullPrefix(st.cfg.Slot) + strconv.FormatUint(uint64(conn.PID()), 10)}
	if unguarded {
		if err := st.checkUnguarded(ctx, conn); err != nil {
			p.close(false)
			return nil, err
		}
	}
	if err := st.copySlot(ctx, p); err != nil {
		p.close(true)
		return nil, err
	}
	if err := p.look(ctx); err != nil {
		p.close(true)
		return nil, err
	}
	return p, nil
}

// copySlot makes the copy, and advances it. A slot that has been moved on meanwhile has no
// longer what is to be read.
func (st *Stream) copySlot(ctx context.Context, p *puller) error {
	row, err := queryRow(ctx, p.conn, fmt.Sprintf("SELECT lsn FROM pg_copy_logical_replication_slot(%s, %s, temporary => true)", literal(st.cfg.Slot), literal(p.slot)), 1)
	if err != nil {
		return fmt.Errorf("copy slot: %w", err)
	}
	at, err := cdc.ParseLSN(row[0])
	if err != nil {
		return fmt.Errorf("copy slot: %w", err)
	}
	if at > st.in.at {
		return cdc.Refuse("walpost bookmark list shows what is kept", "slot %q has been moved to %s meanwhile, and no longer keeps events from %s", st.cfg.Slot, at, st.in.at)
	}
	if _, err := p.conn.Exec(ctx, advanceQuery(p.slot, st.in.at)).ReadAll(); err != nil {
		return fmt.Errorf("advance the copy of the slot: %w", err)
	}
	return nil
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

// maxPullQuiet is at how many looks in a row the server may have sent what does not come.
const maxPullQuiet = 2

// checkPull returns an error if the session that pulls is silent although the server is
// not at work in it: then the connection is dead. While it decodes nothing comes either,
// for as long as that takes.
func (st *Stream) checkPull(ctx context.Context) error {
	p := st.puller.Load()
	if p == nil {
		return nil
	}
	// Without track_activities the state is disabled, and who may not see the session has none.
	const query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND (state IS NULL OR state IN ('active', 'disabled')) AND wait_event_type IS DISTINCT FROM 'Client')"
	working := p.reader.silence() < st.interval()
	if !working {
		if err := st.control.QueryRow(ctx, query, p.conn.PID()).Scan(&working); err != nil {
			return fmt.Errorf("session that owns the slot: %w", err)
		}
	}
	p.quiet++
	if working {
		p.quiet = 0
	}
	if p.quiet >= maxPullQuiet {
		return fmt.Errorf("pull from a copy of slot %q: the server has sent what has not come for %s", st.cfg.Slot, p.reader.silence().Round(time.Second))
	}
	return nil
}

// look asks where the copy stands.
func (p *puller) look(ctx context.Context) error {
	row, err := queryRow(ctx, p.conn, "SELECT restart_lsn, confirmed_flush_lsn, "+EndOfWAL+" FROM pg_replication_slots WHERE slot_name = "+literal(p.slot), 3)
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

// fetch pulls chunks into s until one has reached the end of WAL as it was when the
// chunk was begun.
func (st *Stream) fetch(ctx context.Context, p *puller, s *spool) error {
	out := bufio.NewWriterSize(s, spoolBuffer)
	advanced, last := st.confirmable(), time.Now()
	chunk := st.src.firstChunk
	for far := false; p.at < p.end; {
		if p.at-p.restart > st.src.maxRedecode {
			return errRedecoded
		}
		chunk = max(chunk, min((p.at-p.restart)/2, maxPullChunk))
		from, known, before := p.at, p.end, p.pulled
		goal := min(from+chunk, known)
		s.waited = 0
		if err := st.fetchChunk(ctx, p, goal, out); err != nil {
			return err
		}
		covered, brought := goal-from, cdc.LSN(p.pulled-before)
		little := brought < covered/minPullShare
		if goal == known {
			return nil
		}
		if little {
			if far {
				return nil
			}
			if ours, err := st.probe(ctx, p); err != nil || !ours {
				return err
			}
		}
		far = little
		chunk = nextChunk(covered, brought)
		if now := st.confirmable(); now-advanced > advanceBytes || time.Since(last) > advanceInterval {
			if err := st.advance(ctx, p.conn); err != nil {
				return err
			}
			advanced, last = now, time.Now()
		}
	}
	return nil
}

// fetchChunk gets a chunk whole, and looks where the copy stands then.
func (st *Stream) fetchChunk(ctx context.Context, p *puller, goal cdc.LSN, out *bufio.Writer) error {
	if err := st.fetchTo(p, goal, out); err != nil {
		return err
	}
	if err := p.look(ctx); err != nil {
		return err
	}
	return errors.Join(writeFrame(out, frameEnd, binary.BigEndian.AppendUint64(nil, uint64(p.at))), out.Flush())
}

// nextChunk returns how much WAL a chunk is to cover, from how many bytes of messages
// the last one has brought. One that brought little is followed by the largest.
func nextChunk(covered, brought cdc.LSN) cdc.LSN {
	if brought < covered/minPullShare {
		return farChunk
	}
	return min(max(pullChunk, covered*pullChunk/brought), farChunk)
}

// probe reports whether a large transaction with rows of ours is under way where the copy
// stands. The server shows what it has of such a one to who would stream it, and of others
// the frame without rows. It does so once a transaction takes more than its
// logical_decoding_work_mem, which is bounded for as long as that.
func (st *Stream) probe(ctx context.Context, p *puller) (bool, error) {
	if p.end-p.at <= pullChunk {
		return false, nil // not worth it
	}
	if err := boundDecodingMemory(ctx, p.conn); err != nil {
		return false, err
	}
	messages := fmt.Sprintf("SELECT get_byte(data, 0) AS kind, n FROM pg_logical_slot_peek_binary_changes(%s, '%s', NULL, 'proto_version', '2', 'streaming', 'on', %s) WITH ORDINALITY AS _ (lsn, xid, data, n)",
		literal(p.slot), p.at+probeChunk, strings.Join(st.pluginArgs(", "), ", "))
	framed := fmt.Sprintf("SELECT kind, sum((kind = %d)::int - (kind = %d)::int) OVER (ORDER BY n) AS frames FROM (%s) _",
		pgoutput.KindStreamStart, pgoutput.KindStreamStop, messages)
	row, err := queryRow(ctx, p.conn, fmt.Sprintf("SELECT EXISTS (SELECT FROM (%s) _ WHERE kind = %d AND frames > 0)", framed, pgoutput.KindInsert), 1)
	if err != nil {
		return false, fmt.Errorf("look for a large transaction: %w", err)
	}
	if _, err := p.conn.Exec(ctx, "RESET logical_decoding_work_mem").ReadAll(); err != nil {
		return false, fmt.Errorf("reset logical_decoding_work_mem: %w", err)
	}
	return row[0] == "t", nil
}

// writeFrame writes what eachFrame reads.
func writeFrame(w *bufio.Writer, kind byte, data []byte) error {
	head := binary.BigEndian.AppendUint32(w.AvailableBuffer(), uint32(1+len(data)))
	if _, err := w.Write(append(head, kind)); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

// fetchTo gets the transactions that have committed before goal, and perhaps one that
// commits behind it.
func (st *Stream) fetchTo(p *puller, goal cdc.LSN, out *bufio.Writer) error {
	query := fmt.Sprintf("COPY (SELECT lsn, data FROM pg_logical_slot_get_binary_changes(%s, '%s', NULL, 'proto_version', '1', %s)) TO STDOUT (FORMAT binary)",
		literal(p.slot), goal, strings.Join(st.pluginArgs(", "), ", "))
	p.conn.Frontend().SendQuery(&pgproto3.Query{String: query})
	if err := p.conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("send query: %w", err)
	}
	for {
		msg, err := st.receive(p.conn, p.at)
		if err != nil {
			return err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			p.pulled += int64(len(m.Data))
			if err := writeFrame(out, frameRow, m.Data); err != nil {
				return err
			}
		case *pgproto3.ReadyForQuery:
			return nil
		}
	}
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
