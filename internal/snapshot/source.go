// Package snapshot publishes, once, the rows that were in the outbox tables before the slot.
//
// It is a source before the stream's. The slot is created together with a snapshot of what had
// been committed before, which is divided into chunks; each chunk is handed over as a
// transaction, and then the stream follows, without gap or repetition. WAL does not begin at
// zero: the positions below its first byte stand for the chunks, so that a checkpoint says how
// many of them are published, and the pipeline is none the wiser.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

const (
	// base is the position of a snapshot of which nothing is published, and base+n that of one
	// of which n chunks are.
	base = 1

	// maxPosition is the last position that stands for a chunk: the smallest segment of WAL
	// is 1 MiB, and the first is not used.
	// https://github.com/postgres/postgres/blob/master/src/backend/access/transam/xlog.c, BootStrapXLOG
	maxPosition = 1<<20 - 1
)

// IsPosition reports whether a checkpoint's position is one in a snapshot.
func IsPosition(lsn cdc.LSN) bool { return lsn > 0 && lsn <= maxPosition }

// Text is a checkpoint's position for people.
func Text(lsn cdc.LSN) string {
	if !IsPosition(lsn) {
		return lsn.String()
	}
	return fmt.Sprintf("%s, %d chunks of the snapshot", lsn, lsn-base)
}

// Config says what to publish before the stream.
type Config struct {
	Slot, Publication string
	Tables            []pgx.Identifier

	// OrderBy is a column whose order the rows are published in, with an index that begins
	// with it. Empty: as they lie in the table, which is nearly as they were written.
	OrderBy string

	// Initial makes a snapshot with a slot that is made. Without it a snapshot that has begun is
	// refused, and all else passes through.
	Initial bool

	// Connect opens an ordinary session, which is closed here.
	Connect func(context.Context) (*pgx.Conn, error)

	// Progress, if not nil, is told of chunks that were handed over. It must not block.
	Progress func(done, total int)

	Logger *slog.Logger
}

// Progress is how far a snapshot has come in this process.
type Progress struct {
	Chunks, Of int   // handed over, of all
	Rows       int64 // handed over by this process
}

// Source opens streams with the snapshot before them. It implements [cdc.Source].
type Source struct {
	cfg   Config
	inner cdc.Source
	locks *locks

	// Owned by Open and by the stream that it returned.
	plan     *plan              // of the slot that Open has just made
	exported *pgsource.Exported // with it

	ineffective sync.Once // a setting that comes too late was warned of
	progress    atomic.Pointer[Progress]
}

// New returns a source, which is complete with Before.
func New(cfg Config) *Source {
	return &Source{cfg: cfg, locks: &locks{log: cfg.Logger, timeout: lockTimeout}}
}

// Before puts the snapshot before the streams of inner, which must call Exported when it creates
// a slot, if that is to have a snapshot.
func (s *Source) Before(inner cdc.Source) { s.inner = inner }

// Progress returns how far the snapshot is, or nil if there is none. Safe to call from any
// goroutine.
func (s *Source) Progress() *Progress { return s.progress.Load() }

// Ping implements [cdc.Source].
func (s *Source) Ping(ctx context.Context) error { return s.inner.Ping(ctx) }

// Open implements [cdc.Source].
func (s *Source) Open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	s.plan, s.exported = nil, nil
	var (
		saved cdc.Position
		known *plan // of a slot that is there
	)
	st, err := s.inner.Open(ctx, func(ctx context.Context, server cdc.Position) (cdc.Position, error) {
		var err error
		if saved, err = position(ctx, server); err != nil {
			return saved, err
		}
		at := saved
		if known, err = s.find(ctx, saved); err == nil && IsPosition(saved.LSN) {
			at.LSN, at.Partial = known.LSN, cdc.Partial{} // where the slot still is
		}
		return at, err
	})
	if err != nil {
		s.release()
		return nil, err
	}
	p := known
	if s.plan != nil {
		p = s.plan
	}
	if p == nil || p.Finished && !IsPosition(saved.LSN) {
		return st, nil
	}
	return s.before(st, p, saved), nil
}

// find returns the plan of the slot whose checkpoint is saved, or nil if there is no snapshot to
// go on with.
func (s *Source) find(ctx context.Context, saved cdc.Position) (*plan, error) {
	first, within := saved.IsZero(), IsPosition(saved.LSN)
	if !within && !s.cfg.Initial {
		return nil, nil
	}
	conn, err := s.cfg.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	p, err := load(ctx, conn, s.cfg.Slot)
	if err != nil {
		return nil, err
	}
	made := p != nil && p.Planned
	switch {
	case within && !made:
		return nil, cdc.Refuse("drop the slot and delete its checkpoint to start anew (docs/operations.md says how)", "checkpoint %s of slot %q is in a snapshot of which walpost.snapshot knows nothing", saved.LSN, s.cfg.Slot)
	case within && !s.cfg.Initial:
		return nil, cdc.Refuse("set snapshot to initial; or delete the checkpoint and the row in walpost.snapshot, to stream without the rows that are left (docs/operations.md says how)", "%d of %d chunks of the snapshot of slot %q are published", saved.LSN-base, p.chunks(), s.cfg.Slot)
	case within:
		return p, s.same(ctx, conn, p)
	case !first && !made:
		s.ineffective.Do(func() {
			s.cfg.Logger.Warn("snapshot: initial has no effect: the slot is published from already, without a snapshot", "slot", s.cfg.Slot, "checkpoint_lsn", saved.LSN.String())
		})
		return nil, nil
	case !first:
		return p, nil // its end may still have to be saved, and is to be noted then
	}
	return s.first(ctx, conn, p)
}

// first judges a first start: a slot that is there must have been made with a snapshot.
func (s *Source) first(ctx context.Context, conn *pgx.Conn, p *plan) (*plan, error) {
	slot, err := pgsource.ReadSlot(ctx, conn, s.cfg.Slot)
	switch {
	case err != nil:
		return nil, err
	case slot == nil:
		if err := s.cfg.mayRead(ctx, conn); err != nil {
			return nil, err
		}
		return nil, begin(ctx, conn, s.cfg.Slot)
	case p != nil && p.Planned && p.Finished:
		return nil, nil
	case p != nil && p.Planned:
		return p, s.same(ctx, conn, p)
	case p == nil || p.Finished || p.LSN != slot.ConfirmedFlush:
		return nil, cdc.Refuse("set snapshot to none; or, if no event was written since it was made that is not in the table any more, SELECT pg_drop_replication_slot("+quote(s.cfg.Slot)+"), for walpost run to make it with a snapshot",
			"slot %q was made without a snapshot: nothing tells which rows are older", s.cfg.Slot)
	}
	if err := pgsource.DropSlot(ctx, conn, s.cfg.Slot); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("slot %q was made with a snapshot that was not planned to its end: making it again", s.cfg.Slot)
}

// same refuses a slot that is not the one that was made with the plan: nothing has been confirmed
// to that.
func (s *Source) same(ctx context.Context, conn *pgx.Conn, p *plan) error {
	slot, err := pgsource.ReadSlot(ctx, conn, s.cfg.Slot)
	if err != nil || slot == nil || slot.ConfirmedFlush == p.LSN { // which is missing is the stream's to refuse
		return err
	}
	return cdc.Refuse("drop the slot, delete its checkpoint and its row in walpost.snapshot, and start anew (docs/operations.md says how)",
		"slot %q was made again, or confirmed by something else, before its snapshot was published: it stands at %s, and was made at %s", s.cfg.Slot, slot.ConfirmedFlush, p.LSN)
}

// Exported plans a snapshot that was exported with the slot, and saves the plan.
func (s *Source) Exported(ctx context.Context, e pgsource.Exported) (err error) {
	s.exported = &e
	conn, err := s.cfg.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := noteSlot(ctx, conn, s.cfg.Slot, e.LSN); err != nil {
		return err
	}
	p, err := makePlan(ctx, conn, s.cfg, e, s.locks)
	if err != nil {
		var refused *cdc.RefusedError
		if errors.As(err, &refused) {
			err = errors.Join(err, s.giveUp(ctx))
		}
		return err
	}
	if err := p.save(ctx, conn, s.cfg.Slot); err != nil {
		return err
	}
	s.plan = p
	return nil
}

// giveUp drops a slot whose snapshot cannot be planned, so that what is mended begins with a new
// one.
func (s *Source) giveUp(ctx context.Context) error {
	conn, err := s.cfg.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return errors.Join(pgsource.DropSlot(ctx, conn, s.cfg.Slot), finish(ctx, conn, s.cfg.Slot))
}

// CheckFinished refuses what must wait for the end of a slot's snapshot.
func CheckFinished(ctx context.Context, conn *pgx.Conn, slot string) error {
	const query = `SELECT EXISTS (SELECT FROM walpost.snapshot WHERE slot = $1 AND finished_at IS NULL)`
	var begun bool
	switch err := conn.QueryRow(ctx, query, slot).Scan(&begun); {
	case err == nil && begun:
		return cdc.Refuse("wait until walpost run has published it; of one that was given up delete the row in walpost.snapshot", "the snapshot of slot %q has not ended: rows that it has not come to are published nowhere yet", slot)
	case err == nil, hasCode(err, "42P01", "3F000"): // no such table, no such schema
		return nil
	default:
		return fmt.Errorf("walpost.snapshot: %w", err)
	}
}

func (s *Source) release() {
	if s.exported != nil {
		s.exported.Release()
	}
	s.exported = nil
}
