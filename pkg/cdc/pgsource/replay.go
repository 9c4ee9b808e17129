package pgsource

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/pkg/cdc"
)

// ReplayConfig holds a replay's settings.
type ReplayConfig struct {
	// Config is as for a [Source], but Slot is one that keeps the WAL, as a bookmark
	// does. It is read through a temporary copy, and never moved. What lies behind the position
	// that it, or the live slot, is confirmed at is only to be looked at: standbys that
	// synchronized_standby_slots names may not have it yet.
	Config

	// From and To bound what is read: the transactions whose commit record lies at or
	// after From and before To.
	From, To cdc.LSN
}

// replayStall is how long a replay waits for its handler while a query is open. It begins
// none before there is room for what that is likely to bring.
const replayStall = 24 * time.Hour

// Replay reads a part of the past once more. It implements [cdc.Source]: a stream goes from
// the position that Open is given, or From, up to To, and then rests until it is stopped.
// Any number of replays may read one slot, also while somebody streams from it.
type Replay struct {
	src      *Source
	from, to cdc.LSN
	done     chan struct{}
	doneOnce sync.Once
}

// NewReplay returns a replay, or all problems of cfg. It does not connect.
func NewReplay(cfg ReplayConfig) (*Replay, error) {
	cfg.Filtered = true // nobody is to be warned of it again
	src, err := New(cfg.Config)
	if err != nil {
		return nil, err
	}
	if cfg.From >= cfg.To {
		return nil, fmt.Errorf("replay from %s to %s: there is nothing in between", cfg.From, cfg.To)
	}
	src.stallLimit = replayStall
	return &Replay{src: src, from: cfg.From, to: cfg.To, done: make(chan struct{})}, nil
}

// Done is closed once everything has been handed over. Safe to call from any goroutine.
func (r *Replay) Done() <-chan struct{} { return r.done }

// Ping implements [cdc.Source].
func (r *Replay) Ping(ctx context.Context) error { return r.src.Ping(ctx) }

// Open implements [cdc.Source]. It does not own the slot, and waits for nobody.
func (r *Replay) Open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	conn, err := r.src.connectControl(ctx)
	if err != nil {
		return nil, err
	}
	defer closeConn(conn.PgConn())
	var (
		binary bool
		slot   *SlotState
		server cdc.Position
	)
	err = answered(ctx, func(ctx context.Context) (err error) {
		if err = r.src.checkServer(ctx, conn); err != nil {
			return err
		}
		if binary, err = r.src.checkPublication(ctx, conn); err != nil {
			return err
		}
		if slot, err = ReadSlot(ctx, conn, r.src.cfg.Slot); err != nil {
			return err
		}
		server, err = Identify(ctx, conn)
		return err
	})
	if err != nil {
		return nil, err
	}
	saved, err := position(ctx, server)
	if err != nil {
		return nil, err
	}
	start, err := r.start(saved, server, slot)
	if err != nil {
		return nil, err
	}
	st := &Stream{src: r.src, cfg: r.src.cfg, stopped: make(chan struct{}), wake: make(chan struct{}, 1), binary: binary && !r.src.textOnly}
	st.in = reader{relations: map[uint32]*relation{}, others: map[uint32]bool{}, at: start}
	st.start = cdc.Position{SystemID: server.SystemID, Timeline: server.Timeline, LSN: start}
	return &replayStream{Stream: st, replay: r}, nil
}

// start judges where to begin.
func (r *Replay) start(saved, server cdc.Position, slot *SlotState) (cdc.LSN, error) {
	name, start := r.src.cfg.Slot, r.from
	if !saved.IsZero() {
		if saved.SystemID != server.SystemID || saved.Timeline != server.Timeline {
			return 0, cdc.Refuse("begin it anew there", "the replay was begun on another server, or before a failover: system identifier %d, timeline %d", saved.SystemID, saved.Timeline)
		}
		start = max(start, saved.LSN)
	}
	if slot == nil {
		return 0, cdc.Refuse("walpost bookmark list shows those that are there", "slot %q, which kept the events to replay, does not exist", name)
	}
	if slot.Lost() {
		return 0, cdc.Refuse("walpost bookmark list shows what else is kept", "slot %q, which kept the events to replay, is lost: %s", name, slot.LostReason())
	}
	if err := CheckSlot(name, slot); err != nil {
		return 0, err
	}
	if slot.ConfirmedFlush > start {
		return 0, cdc.Refuse("walpost bookmark list shows what else is kept", "slot %q keeps events from %s on, and not from %s", name, slot.ConfirmedFlush, start)
	}
	return start, nil
}

// Identify returns which server a session is with, and the end of its WAL.
func Identify(ctx context.Context, conn *pgx.Conn) (cdc.Position, error) {
	const query = `SELECT system_identifier::text, ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int, pg_current_wal_flush_lsn()::text
		FROM pg_control_system()`
	var (
		p         cdc.Position
		timeline  int32
		system, l string
	)
	err := conn.QueryRow(ctx, query).Scan(&system, &timeline, &l)
	if err == nil {
		p.Timeline = uint32(timeline)
		p.SystemID, err = strconv.ParseUint(system, 10, 64)
	}
	if err == nil {
		p.LSN, err = cdc.ParseLSN(l)
	}
	if err != nil {
		return cdc.Position{}, fmt.Errorf("identify server: %w", err)
	}
	return p, nil
}

// replayStream is the stream of a replay: a pull, from which nothing is confirmed.
type replayStream struct {
	*Stream
	replay *Replay
}

// Confirm implements [cdc.Stream]: the slot is not moved.
func (st *replayStream) Confirm(cdc.LSN) {}

// Close implements [cdc.Stream].
func (st *replayStream) Close() error { return nil }

// Run implements [cdc.Stream].
func (st *replayStream) Run(ctx context.Context, h cdc.Handler) error {
	defer st.in.close()
	hctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := new(errgroup.Group)
	g.Go(func() error {
		select {
		case <-st.stopped:
			cancel(errStopped)
		case <-hctx.Done():
		}
		return st.interrupt()
	})
	err := st.pullRange(hctx, h)
	switch {
	case hctx.Err() != nil, errors.Is(err, errStopped): // what failed then was ended by us
	case err != nil:
		return errors.Join(err, st.end(cancel, g))
	default:
		st.replay.doneOnce.Do(func() { close(st.replay.done) })
	}
	<-ctx.Done()
	return st.end(cancel, g)
}

// end ends the goroutine of Run.
func (st *replayStream) end(cancel context.CancelCauseFunc, g *errgroup.Group) error {
	cancel(nil)
	return g.Wait()
}

// pullRange hands over what lies in the range.
func (st *replayStream) pullRange(ctx context.Context, h cdc.Handler) error {
	if st.in.at >= st.replay.to {
		return nil // all but the last save was done
	}
	p, err := st.openPuller(ctx, false)
	if err != nil {
		return err
	}
	err = st.pullAll(ctx, &inRange{Handler: h, from: st.start.LSN, to: st.replay.to}, p, st.fetchRange)
	if err != nil {
		return fmt.Errorf("replay from a copy of slot %q: %w", st.cfg.Slot, err)
	}
	return nil
}

// fetchRange gets chunks up to the end of the range, whatever they bring: nobody else
// would hand over the rest.
func (st *replayStream) fetchRange(ctx context.Context, p *puller, s *spool) error {
	out := bufio.NewWriterSize(s, spoolBuffer)
	var chunk cdc.LSN = firstChunk
	for p.at < st.replay.to {
		if err := s.awaitHalf(); err != nil {
			return err
		}
		from, before := p.at, p.pulled
		goal := min(from+max(chunk, min((from-p.restart)/2, maxPullChunk)), st.replay.to)
		if err := st.fetchChunk(ctx, p, goal, out); err != nil {
			return err
		}
		chunk = nextChunk(goal-from, cdc.LSN(p.pulled-before))
		if p.at <= from && p.end < st.replay.to {
			return fmt.Errorf("the server's WAL ends at %s", p.end)
		}
	}
	return nil
}

// inRange passes on the transactions whose commit record lies in a range. It sets no
// position beyond its end.
type inRange struct {
	cdc.Handler
	from, to cdc.LSN
	skipping bool
}

func (r *inRange) Begin(tx cdc.Transaction) error {
	if r.skipping = tx.CommitLSN < r.from || tx.CommitLSN >= r.to; r.skipping {
		return nil
	}
	return r.Handler.Begin(tx)
}

func (r *inRange) Insert(ctx context.Context, ev *cdc.Event) error {
	if r.skipping {
		return nil
	}
	return r.Handler.Insert(ctx, ev)
}

func (r *inRange) Commit(end cdc.LSN) error {
	if r.skipping {
		r.Idle(end)
		return nil
	}
	return r.Handler.Commit(end)
}

func (r *inRange) Idle(lsn cdc.LSN) { r.Handler.Idle(min(lsn, r.to)) }
