package pgsource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walpost/walpost/pkg/cdc"
)

const (
	// minStatusGap is the least time between two status messages. A server
	// that is waited for asks for answers in storms.
	minStatusGap = 50 * time.Millisecond

	// confirmTimeout bounds the wait until the slot shows the last position, and
	// finishTimeout the goodbye after that.
	confirmTimeout = 5 * time.Second
	finishTimeout  = time.Second

	// switchTimeout bounds the goodbye where a pull follows.
	switchTimeout = 2 * time.Second
)

// interval is the time between two status messages, and between two looks at
// the slot.
func (st *Stream) interval() time.Duration {
	return min(st.cfg.StatusInterval, st.senderTimeout/3)
}

func (st *Stream) wakeStatus() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// keepAlive sends standby status: on a ticker, when the server asks, and when
// there is something new to confirm. It does so while the handler blocks, and
// ends the stream when the server has gone silent.
func (st *Stream) keepAlive(ctx context.Context) error {
	ticker := time.NewTicker(st.interval())
	defer ticker.Stop()
	gap := time.NewTimer(0)
	defer gap.Stop()
	for {
		ask := false
		select {
		case <-ctx.Done():
			return nil
		case <-st.wake:
		case <-ticker.C:
			ask = true
		}
		if silence := st.repl.Load().reader.silence(); silence > st.maxSilence() {
			return fmt.Errorf("no sign of life from the server for %s", silence.Round(time.Second))
		}
		if _, err := st.sendStatus(ctx, ask); err != nil {
			return err
		}
		gap.Reset(minStatusGap)
		select {
		case <-ctx.Done():
			return nil
		case <-gap.C:
		}
	}
}

// maxSilence is how long the server may leave our questions unanswered: twice
// what it would grant us, since it does not answer while it decodes.
func (st *Stream) maxSilence() time.Duration { return 2 * st.senderTimeout }

// sendStatus reports how far this session has received, and what is confirmed
// of that. All three positions are given: pglogrepl would else report what was
// merely received as flushed. While no replication command runs it sends nothing
// and returns false.
func (st *Stream) sendStatus(ctx context.Context, ask bool) (sent bool, err error) {
	st.sending.Lock()
	defer st.sending.Unlock()
	if !st.copying {
		return false, nil
	}
	flushed := st.confirmable()
	if err := st.repl.Load().conn.Conn().SetWriteDeadline(time.Now().Add(st.senderTimeout)); err != nil {
		return false, fmt.Errorf("send standby status: %w", err)
	}
	err = pglogrepl.SendStandbyStatusUpdate(ctx, st.repl.Load().conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: pglogrepl.LSN(st.received.Load()),
		WALFlushPosition: pglogrepl.LSN(flushed),
		WALApplyPosition: pglogrepl.LSN(flushed),
		ReplyRequested:   ask,
	})
	if err != nil {
		return false, fmt.Errorf("send standby status: %w", err)
	}
	st.src.metrics.confirmed.Set(float64(flushed))
	return true, nil
}

// confirmable is what the slot may forget: never more than was received in this
// session, since the server takes a position beyond the end of WAL for true.
func (st *Stream) confirmable() cdc.LSN {
	return cdc.LSN(min(st.confirmed.Load(), st.received.Load()))
}

// finish confirms once more what was saved, and ends the copy in good order.
// Closing a socket with unread data resets the connection, and the server may
// then lose the last status: so it waits until the slot shows it.
func (st *Stream) finish(ctx context.Context) error {
	sent, err := st.sendStatus(ctx, true)
	if err == nil && sent {
		err = st.awaitConfirmed(ctx)
	} else if err == nil {
		err = st.advanceLast(ctx)
	}
	if err != nil {
		return fmt.Errorf("confirm %s to slot %q: %w", st.confirmable(), st.cfg.Slot, err)
	}
	if !sent {
		return nil
	}
	if err := st.repl.Load().endCopy(finishTimeout); err != nil {
		st.cfg.Logger.Debug("replication not ended by the server in time", "error", err)
	}
	return nil
}

// advanceLast confirms by moving the slot. A replication command that was given in
// the moment of the stop may still hold it.
func (st *Stream) advanceLast(ctx context.Context) error {
	closeConn(st.repl.Load().conn)
	ctx, cancel := context.WithTimeout(ctx, advanceTimeout)
	defer cancel()
	ticker := time.NewTicker(visibleInterval)
	defer ticker.Stop()
	for {
		err := st.advance(ctx, st.control.PgConn())
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != codeObjectInUse {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// awaitConfirmed waits until the slot shows what was confirmed.
func (st *Stream) awaitConfirmed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		slot, err := ReadSlot(ctx, st.control, st.cfg.Slot)
		if err != nil || slot == nil || slot.ConfirmedFlush >= st.confirmable() {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the slot still shows %s", slot.ConfirmedFlush)
		case <-ticker.C:
		}
	}
}

// endCopy says that no more status will come, and reads until the server has
// ended the copy as well, for at most the given time.
func (r *replication) endCopy(limit time.Duration) error {
	if err := r.conn.Conn().SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	r.conn.Frontend().Send(&pgproto3.CopyDone{})
	if err := r.conn.Frontend().Flush(); err != nil {
		return err
	}
	for {
		msg, err := r.conn.ReceiveMessage(context.Background())
		if err != nil {
			return err
		}
		if _, ok := msg.(*pgproto3.ReadyForQuery); ok {
			return nil
		}
	}
}
