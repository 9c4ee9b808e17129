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
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/pkg/cdc"
)

// Stream is one replication connection, and the ordinary session whose lock
// makes it the slot's only reader. It implements [cdc.Stream].
//
// From Open to Run a goroutine keeps the ordinary session alive. While the stream runs
// there are four: one reads and calls the handler, one sends standby status, one watches
// the ordinary session, and one interrupts the first.
type Stream struct {
	src     *Source
	cfg     Config
	control *pgx.Conn                   // owned by Open, then by hold, then by watch, then by finish
	repl    atomic.Pointer[replication] // replaced with sending held
	start   cdc.Position
	binary  bool

	senderTimeout time.Duration // the session's wal_sender_timeout, never zero

	release func() error // ends hold, and says whether control was lost meanwhile
	abandon func()       // ends hold at once
	lost    chan struct{}

	stopOnce sync.Once
	stopped  chan struct{}

	received  atomic.Uint64 // highest LSN received in this session
	confirmed atomic.Uint64 // what the slot may forget
	wake      chan struct{} // asks for a status message soon

	sending sync.Mutex // held while something is sent on repl; guards copying
	copying bool       // the replication command runs: standby status may be sent

	listening   sync.Mutex     // guards listener and interrupted
	listener    *pgconn.PgConn // whose read an interruption ends
	interrupted bool

	backlog backlog
	puller  atomic.Pointer[puller] // while a backlog is fetched
	in      reader                 // owned by the goroutine that reads
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
	st.abandon()
	_ = st.release() // a loss was reported by Run, or there was none
	closeConn(st.repl.Load().conn)
	closeConn(st.control.PgConn())
	st.src.metrics.connected.Set(0)
	st.src.running.Store(nil)
	st.src.contact.Store(0)
	return nil
}

// Run implements [cdc.Stream].
func (st *Stream) Run(ctx context.Context, h cdc.Handler) error {
	if err := st.release(); err != nil {
		return err
	}
	st.src.metrics.connected.Set(1)
	st.src.running.Store(st)
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
		return st.interrupt()
	})
	g.Go(func() error {
		err := st.flow(hctx, h)
		select {
		case <-st.stopped: // what the handler says from then on is no failure
		case <-hctx.Done():
		default:
			return err
		}
		<-gctx.Done() // the connection is kept alive until then
		return nil
	})
	g.Go(func() error { return st.keepAlive(gctx) })
	g.Go(func() error { return st.watch(gctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	return st.finish(context.WithoutCancel(ctx))
}

// flow hands over what comes: what lies far back is pulled, the rest is streamed,
// and so in turn. It does not end but with an error.
func (st *Stream) flow(ctx context.Context, h cdc.Handler) error {
	for {
		if st.shouldPull() {
			if err := st.pull(ctx, h); err != nil {
				return err
			}
		}
		if err := st.startReplication(ctx); err != nil {
			return err
		}
		if err := st.read(ctx, h); !errors.Is(err, errBehind) {
			return err
		}
		if err := st.endReplication(ctx); err != nil {
			return err
		}
	}
}

// startReplication gives the replication command.
// https://www.postgresql.org/docs/current/protocol-logical-replication.html
func (st *Stream) startReplication(ctx context.Context) error {
	if err := st.listen(st.repl.Load().conn); err != nil {
		return err
	}
	args := append([]string{"proto_version '2'", "streaming 'on'"}, st.pluginArgs(" ")...)
	if st.cfg.Messages != nil {
		// In a stream block a message does not tell its subtransaction: one that was
		// rolled back could not be left out (logicalrep_write_message).
		args[1] = "streaming 'off'"
	}
	opts := pglogrepl.StartReplicationOptions{Mode: pglogrepl.LogicalReplication, PluginArgs: args}
	st.sending.Lock()
	defer st.sending.Unlock()
	err := answered(ctx, func(ctx context.Context) error {
		return pglogrepl.StartReplication(ctx, st.repl.Load().conn, st.cfg.Slot, pglogrepl.LSN(st.in.at), opts)
	})
	if err != nil {
		return fmt.Errorf("start replication from slot %q at %s: %w", st.cfg.Slot, st.in.at, err)
	}
	st.copying = true
	return nil
}

// pluginArgs are the plugin's options that hold for streaming and for pulling,
// each a name and a literal.
func (st *Stream) pluginArgs(between string) []string {
	name := func(s string) string {
		if between == " " {
			return s
		}
		return literal(s)
	}
	args := []string{name("publication_names") + between + literal(pgx.Identifier{st.cfg.Publication}.Sanitize())}
	if st.binary {
		args = append(args, name("binary")+between+"'true'")
	}
	if st.cfg.Messages != nil {
		args = append(args, name("messages")+between+"'true'")
	}
	return args
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// endReplication ends the replication command, and connects anew for another. What
// the server has sent meanwhile is dropped: it comes again. A walsender takes the
// command only once: of a second one it would not read the standby status, since it
// still knows that the first was ended (StartLogicalReplication in walsender.c).
func (st *Stream) endReplication(ctx context.Context) error {
	if err := st.listen(nil); err != nil {
		return err
	}
	st.sending.Lock()
	defer st.sending.Unlock()
	st.copying = false
	old := st.repl.Load()
	if err := old.endCopy(switchTimeout); err != nil {
		st.cfg.Logger.Debug("replication not ended by the server in time", "error", err) // it will notice
	}
	closeConn(old.conn)
	repl, err := st.src.connectReplication(ctx)
	if err != nil {
		return err
	}
	st.repl.Store(repl)
	return nil
}

// listen makes conn the one whose reads Stop ends. It fails if that has happened.
func (st *Stream) listen(conn *pgconn.PgConn) error {
	st.listening.Lock()
	defer st.listening.Unlock()
	if st.interrupted {
		return errStopped
	}
	st.listener = conn
	if conn == nil {
		return nil
	}
	return conn.Conn().SetDeadline(time.Time{})
}

// interrupt ends a read that is blocked, and leaves the connection as it is.
func (st *Stream) interrupt() error {
	st.listening.Lock()
	defer st.listening.Unlock()
	st.interrupted = true
	if st.listener == nil {
		return nil
	}
	return st.listener.Conn().SetReadDeadline(time.Unix(1, 0))
}

// watch looks at the slot from time to time, which also keeps the session with
// the lock from being idle, and ends the stream when that session is lost: then
// the server is shutting down, or another process may own the slot.
func (st *Stream) watch(ctx context.Context) error {
	for n := 1; ; n++ {
		if err := st.sample(ctx, n%publicationEvery == 0); err != nil && ctx.Err() == nil {
			return err
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

// publicationEvery is how many looks at the slot come for one at the publication,
// which costs the server more where it has very many tables.
const publicationEvery = 6

// sample looks at the slot: it puts its condition into the metrics, and sees whether
// the stream has fallen behind. With publication it also refuses to go on with one that
// leaves events out.
func (st *Stream) sample(ctx context.Context, publication bool) error {
	ctx, cancel := patient(ctx, st.senderTimeout)
	defer cancel()
	slot, err := ReadSlot(ctx, st.control, st.cfg.Slot)
	if err != nil {
		return fmt.Errorf("session that owns the slot: %w", err)
	}
	st.src.contact.Store(cdc.Stamp(time.Now()))
	if err := st.checkPull(ctx); err != nil {
		return err
	}
	if slot != nil {
		st.src.metrics.observe(slot)
		st.backlog.observe(slot.End, cdc.LSN(st.received.Load()), st.repl.Load().reader.total.Load())
	}
	if publication {
		_, err = st.src.checkSettings(ctx, st.control)
	}
	return err
}

// sampleGrace is how long a look may go on after the stream was ended.
const sampleGrace = time.Second

// patient returns a context that ends after limit, or sampleGrace after ctx: a query
// that is cut off costs its session, which finish still needs.
func patient(ctx context.Context, limit time.Duration) (context.Context, func()) {
	later, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(sampleGrace, cancel) })
	return later, func() {
		stop()
		cancel()
	}
}
