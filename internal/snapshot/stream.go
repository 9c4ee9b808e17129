package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/table"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

const (
	// reportInterval is the time between two lines of the log about how far it is.
	reportInterval = 10 * time.Second

	// finishTimeout bounds the note that the snapshot is published.
	finishTimeout = 10 * time.Second
)

// stream is the slot's stream with what is left of the snapshot before it.
type stream struct {
	cdc.Stream // the slot's, which runs afterwards
	src        *Source
	plan       *plan
	first      int // the chunk to begin with
	start      cdc.Position
	exported   *pgsource.Exported // or nil: another process made the slot

	stopOnce  sync.Once
	stopped   chan struct{}
	doneOnce  sync.Once
	published chan struct{} // closed once all is published and confirmed
}

// before returns st with what is left of the snapshot before it.
func (s *Source) before(st cdc.Stream, p *plan, saved cdc.Position) *stream {
	b := &stream{Stream: st, src: s, plan: p, start: saved, exported: s.exported, stopped: make(chan struct{}), published: make(chan struct{})}
	s.exported = nil
	switch {
	case saved.IsZero():
		b.start = st.Start()
		b.start.LSN = base
	case !IsPosition(saved.LSN):
		b.start = st.Start()
	}
	b.first = p.chunks() // all is handed over, if it is not published yet
	if IsPosition(b.start.LSN) {
		b.first = int(b.start.LSN - base)
	}
	s.progress.Store(&Progress{Chunks: b.first, Of: p.chunks()})
	return b
}

// Start implements [cdc.Stream].
func (st *stream) Start() cdc.Position { return st.start }

// Stop implements [cdc.Stream].
func (st *stream) Stop() {
	st.stopOnce.Do(func() { close(st.stopped) })
	st.Stream.Stop()
}

// Confirm implements [cdc.Stream]. The slot stays where it is for as long as the snapshot lasts.
func (st *stream) Confirm(lsn cdc.LSN) {
	if lsn < st.plan.LSN {
		return
	}
	st.doneOnce.Do(func() { close(st.published) })
	st.Stream.Confirm(lsn)
}

// Close implements [cdc.Stream].
func (st *stream) Close() error {
	st.release()
	return st.Stream.Close()
}

func (st *stream) release() {
	if st.exported != nil {
		st.exported.Release()
	}
	st.exported = nil
}

// Run implements [cdc.Stream].
func (st *stream) Run(ctx context.Context, h cdc.Handler) error {
	if err := st.snapshot(ctx, h); err != nil {
		select {
		case <-st.stopped: // what the handler says from then on is no failure
			<-ctx.Done()
			return nil
		case <-ctx.Done():
			return nil
		default:
		}
		return fmt.Errorf("snapshot: %w", err)
	}
	st.release()
	if IsPosition(st.start.LSN) {
		h.Idle(st.plan.LSN)
	}
	fctx, cancel := context.WithCancel(ctx)
	var noted sync.WaitGroup
	noted.Go(func() { st.noteEnd(fctx) })
	defer noted.Wait()
	defer cancel()
	return st.Stream.Run(ctx, h)
}

// noteEnd notes in the database that all is published, once it is. If that fails, the next start
// does it.
func (st *stream) noteEnd(ctx context.Context) {
	select {
	case <-st.published:
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	conn, err := st.src.cfg.Connect(ctx)
	if err == nil {
		defer func() { _ = conn.Close(ctx) }()
		err = finish(ctx, conn, st.src.cfg.Slot)
	}
	if err != nil {
		st.src.cfg.Logger.Warn("the end of the snapshot could not be noted, and is with the next start; until then purge waits for it", "error", err)
	}
}

// snapshot hands over what is left of the snapshot.
func (st *stream) snapshot(ctx context.Context, h cdc.Handler) error {
	total := st.plan.chunks()
	if st.first >= total {
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	relations, err := st.describe(ctx)
	if err != nil {
		return err
	}
	r := &reading{plan: st.plan, relations: relations, connect: st.src.cfg.Connect, locks: st.src.locks}
	if st.exported != nil {
		r.snapshot = st.exported.Snapshot
	}
	g, gctx := errgroup.WithContext(ctx)
	done := make(chan struct{})
	g.Go(func() error { return st.guard(gctx, done) })
	r.start(gctx, g, st.first)
	g.Go(func() error {
		defer close(done)
		return st.handAll(gctx, h, r)
	})
	return g.Wait()
}

var (
	errStopped = errors.New("stream stopped")
	errLost    = errors.New("the session that owns the slot is lost")
)

// guard ends the snapshot if the stream is stopped or the slot is not owned any more.
func (st *stream) guard(ctx context.Context, done <-chan struct{}) error {
	var lost <-chan struct{}
	if l, ok := st.Stream.(interface{ Lost() <-chan struct{} }); ok {
		lost = l.Lost()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return nil
	case <-st.stopped:
		return errStopped
	case <-lost:
		return errLost
	}
}

func (st *stream) describe(ctx context.Context) (map[string]*cdc.Relation, error) {
	conn, err := st.src.cfg.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	relations := map[string]*cdc.Relation{}
	for i := range st.plan.Parts {
		name := st.plan.Parts[i].Table
		if relations[name.Sanitize()] != nil {
			continue
		}
		rel, err := table.Describe(ctx, conn, name, st.src.cfg.Publication)
		if err != nil {
			return nil, readError(name, err)
		}
		relations[name.Sanitize()] = rel
	}
	return relations, nil
}

// handAll hands over each chunk as a transaction.
func (st *stream) handAll(ctx context.Context, h cdc.Handler, r *reading) error {
	log, began := st.src.cfg.Logger, time.Now()
	log.Info("snapshot: publishing the rows that were there before the slot", "chunk", st.first, "of", st.plan.chunks())
	progress := Progress{Chunks: st.first, Of: st.plan.chunks()}
	reported := began
	for c := range r.queue {
		n, err := st.hand(ctx, h, r.relations[c.part.Table.Sanitize()], c)
		if err != nil {
			return err
		}
		progress.Chunks, progress.Rows = c.n+1, progress.Rows+n
		now := progress
		st.src.progress.Store(&now)
		if st.src.cfg.Progress != nil {
			st.src.cfg.Progress(now.Chunks, now.Of)
		}
		if time.Since(reported) >= reportInterval {
			reported = time.Now()
			report(log, "snapshot", now, began)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	report(log, "snapshot: all rows are handed over, the stream follows", progress, began)
	return nil
}

func report(log *slog.Logger, msg string, p Progress, began time.Time) {
	log.Info(msg, "chunk", p.Chunks, "of", p.Of, "rows", p.Rows, "rows_per_second", int(float64(p.Rows)/time.Since(began).Seconds()))
}

// hand hands over a chunk, and returns how many rows it had. One without rows is none.
func (st *stream) hand(ctx context.Context, h cdc.Handler, rel *cdc.Relation, c *chunkRead) (n int64, err error) {
	tx := cdc.Transaction{CommitLSN: cdc.LSN(base + c.n), CommitTime: st.plan.Begun}
	ev := &cdc.Event{Transaction: tx, Relation: rel, Values: make([]cdc.Value, len(rel.Columns)), LSN: tx.CommitLSN}
	for {
		var batch *rows
		select {
		case batch = <-c.rows:
		case <-ctx.Done():
			return n, context.Cause(ctx)
		}
		if batch == nil {
			break
		}
		for at := 0; at < len(batch.values); at += len(rel.Columns) {
			if n == 0 {
				if err := h.Begin(tx); err != nil {
					return n, err
				}
			}
			n++
			table.Set(ev, batch.values[at:at+len(rel.Columns)])
			if err := h.Insert(ctx, ev); err != nil {
				return n, err
			}
		}
		batch.free()
	}
	if n == 0 {
		h.Idle(tx.CommitLSN + 1)
		return 0, nil
	}
	return n, h.Commit(tx.CommitLSN + 1)
}
