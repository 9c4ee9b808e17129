package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/pkg/cdc"
)

// Stream is one replication connection, and the ordinary session whose lock
// makes it the slot's only reader. It implements [cdc.Stream].
//
// While it runs there are four goroutines: one reads and calls the handler, one
// sends standby status, one watches the ordinary session, and one interrupts
// the first.
type Stream struct {
	src     *Source
	cfg     Config
	control *pgx.Conn // owned by Open, then by watch, then by finish
	repl    *replication
	start   cdc.Position
	binary  bool

	stopOnce sync.Once
	stopped  chan struct{}

	received  atomic.Uint64 // highest LSN received in this session
	confirmed atomic.Uint64 // what the slot may forget
	wake      chan struct{} // asks for a status message soon

	in reader // owned by the goroutine that reads
}

// errStopped ends the handler's context when Stop was called.
var errStopped = errors.New("stream stopped")

// Start implements [cdc.Stream].
func (st *Stream) Start() cdc.Position { return st.start }

// Stop implements [cdc.Stream].
func (st *Stream) Stop() { st.stopOnce.Do(func() { close(st.stopped) }) }

// Confirm implements [cdc.Stream].
func (st *Stream) Confirm(lsn cdc.LSN) {
	for {
		old := st.confirmed.Load()
		if uint64(lsn) <= old {
			return
		}
		if st.confirmed.CompareAndSwap(old, uint64(lsn)) {
			st.wakeStatus()
			return
		}
	}
}

// Close implements [cdc.Stream].
func (st *Stream) Close() error {
	closeConn(st.repl.conn)
	closeConn(st.control.PgConn())
	st.src.metrics.connected.Set(0)
	return nil
}

// Run implements [cdc.Stream].
func (st *Stream) Run(ctx context.Context, h cdc.Handler) error {
	if err := st.startReplication(ctx); err != nil {
		return err
	}
	st.src.metrics.connected.Set(1)
	defer st.in.close()
	g, gctx := errgroup.WithContext(ctx)
	hctx, cancel := context.WithCancelCause(gctx)
	defer cancel(nil)
	g.Go(func() error {
		select {
		case <-st.stopped:
		case <-gctx.Done():
		}
		cancel(errStopped)
		return st.repl.interrupt()
	})
	g.Go(func() error {
		if err := st.read(hctx, h); hctx.Err() == nil {
			return err
		}
		<-gctx.Done() // stopped: the connection is kept alive until then
		return nil
	})
	g.Go(func() error { return st.keepAlive(gctx) })
	g.Go(func() error { return st.watch(gctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	return st.finish(context.WithoutCancel(ctx))
}

// startReplication gives the replication command.
// https://www.postgresql.org/docs/current/protocol-logical-replication.html
func (st *Stream) startReplication(ctx context.Context) error {
	args := []string{
		"proto_version '2'",
		"publication_names " + literal(pgx.Identifier{st.cfg.Publication}.Sanitize()),
		"streaming 'on'",
	}
	if st.binary {
		args = append(args, "binary 'true'")
	}
	opts := pglogrepl.StartReplicationOptions{Mode: pglogrepl.LogicalReplication, PluginArgs: args}
	if err := pglogrepl.StartReplication(ctx, st.repl.conn, st.cfg.Slot, pglogrepl.LSN(st.start.LSN), opts); err != nil {
		return fmt.Errorf("start replication from slot %q at %s: %w", st.cfg.Slot, st.start.LSN, err)
	}
	return nil
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

const (
	// minStatusGap is the least time between two status messages. A server
	// that is waited for asks for answers in storms.
	minStatusGap = 50 * time.Millisecond

	// finishTimeout bounds each of the two waits of a clean end.
	finishTimeout = time.Second
)

// interval is the time between two status messages, and between two looks at
// the slot.
func (st *Stream) interval() time.Duration {
	return min(st.cfg.StatusInterval, st.repl.senderTimeout/3)
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
		if silence := st.repl.reader.silence(); silence > st.maxSilence() {
			return fmt.Errorf("no sign of life from the server for %s", silence.Round(time.Second))
		}
		if err := st.sendStatus(ctx, ask); err != nil {
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
func (st *Stream) maxSilence() time.Duration { return 2 * st.repl.senderTimeout }

// sendStatus reports how far this session has received, and what is confirmed
// of that. All three positions are given: pglogrepl would else report what was
// merely received as flushed.
func (st *Stream) sendStatus(ctx context.Context, ask bool) error {
	received := st.received.Load()
	flushed := min(st.confirmed.Load(), received)
	if err := st.repl.conn.Conn().SetWriteDeadline(time.Now().Add(st.repl.senderTimeout)); err != nil {
		return fmt.Errorf("send standby status: %w", err)
	}
	err := pglogrepl.SendStandbyStatusUpdate(ctx, st.repl.conn, pglogrepl.StandbyStatusUpdate{
		WALWritePosition: pglogrepl.LSN(received),
		WALFlushPosition: pglogrepl.LSN(flushed),
		WALApplyPosition: pglogrepl.LSN(flushed),
		ReplyRequested:   ask,
	})
	if err != nil {
		return fmt.Errorf("send standby status: %w", err)
	}
	st.src.metrics.confirmed.Set(float64(flushed))
	return nil
}

// watch looks at the slot from time to time, which also keeps the session with
// the lock from being idle, and ends the stream when that session is lost: then
// the server is shutting down, or another process may own the slot.
func (st *Stream) watch(ctx context.Context) error {
	for {
		if err := st.sample(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("session that owns the slot: %w", err)
		}
		wctx, cancel := context.WithTimeout(ctx, st.interval())
		_, err := st.control.WaitForNotification(wctx) // none is sent: this waits for the session's end
		waited := wctx.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the wait was ended by us
		}
		if !waited {
			return fmt.Errorf("session that owns the slot: %w", err)
		}
	}
}

// sample puts the slot's condition into the metrics.
func (st *Stream) sample(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, st.repl.senderTimeout)
	defer cancel()
	slot, err := readSlot(ctx, st.control, st.cfg.Slot)
	if err == nil && slot != nil {
		st.src.metrics.observe(slot)
	}
	return err
}

// finish confirms once more what was saved, and ends the copy in good order.
// Closing a socket with unread data resets the connection, and the server may
// then lose the last status: so it waits until the slot shows it.
func (st *Stream) finish(ctx context.Context) error {
	if err := st.sendStatus(ctx, true); err != nil {
		return err
	}
	if err := st.awaitConfirmed(ctx); err != nil {
		return fmt.Errorf("confirm %s to slot %q: %w", cdc.LSN(st.confirmed.Load()), st.cfg.Slot, err)
	}
	if err := st.repl.endCopy(finishTimeout); err != nil {
		st.cfg.Logger.Debug("replication not ended by the server in time", "error", err)
	}
	return nil
}

// awaitConfirmed waits until the slot shows what was confirmed.
func (st *Stream) awaitConfirmed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, finishTimeout)
	defer cancel()
	want := cdc.LSN(min(st.confirmed.Load(), st.received.Load()))
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		slot, err := readSlot(ctx, st.control, st.cfg.Slot)
		if err != nil || slot == nil || slot.ConfirmedFlush >= want {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the slot still shows %s", slot.ConfirmedFlush)
		case <-ticker.C:
		}
	}
}

// interrupt ends a read that is blocked, and leaves the connection as it is.
func (r *replication) interrupt() error { return r.conn.Conn().SetReadDeadline(time.Unix(1, 0)) }

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
