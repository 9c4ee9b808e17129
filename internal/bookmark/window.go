package bookmark

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/history"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// minAdvance is how much WAL the window's bookmark must have to let go of to be moved: each
// move makes the server decode from the bookmark's restart_lsn.
const minAdvance = 16 << 20

// maxAdvance is how far it is moved at once: a move that is cut off has moved nothing.
const maxAdvance = 2 << 30

// Window moves the replay window's bookmark along. The zero value is ready. It is not safe for
// concurrent use.
type Window struct {
	step cdc.LSN // how far it is moved at once: less after a move that has failed; zero is maxAdvance
}

// Change is what Keep has done.
type Change struct {
	Done bool   // anything
	Lost string // why the window's bookmark is lost, and was dropped; else empty
}

// Keep makes the bookmark of the window if there is none, and moves it to where the
// window begins: length ago, or maxBytes before the end of WAL if that is nearer. A length
// of zero drops it. It never moves it beyond what the live slot has confirmed. One that is
// lost is dropped, and made anew by the next call. A move that fails, as one that ctx cuts off,
// halves how far the next one goes, down to minAdvance, and one that is done doubles it.
func (w *Window) Keep(ctx context.Context, conn *pgx.Conn, live string, length time.Duration, maxBytes int64) (Change, error) {
	b, err := get(ctx, conn, live, WindowName)
	var refused *cdc.RefusedError
	missing := errors.As(err, &refused)
	switch {
	case err != nil && !missing:
		return Change{}, err
	case length == 0 && missing:
		return Change{}, nil
	case length > 0 && missing:
		_, err := Create(ctx, conn, live, WindowName, false, Limits{MaxBytes: maxBytes})
		return Change{Done: err == nil}, err
	case length == 0:
		return Change{Done: true}, Drop(ctx, conn, live, WindowName)
	case !b.Usable:
		return Change{Done: true, Lost: b.Status}, Drop(ctx, conn, live, WindowName)
	}
	done, err := w.move(ctx, conn, live, b, length, maxBytes)
	return Change{Done: done}, err
}

// move moves the bookmark, unless too little would be let go of.
func (w *Window) move(ctx context.Context, conn *pgx.Conn, live string, b Bookmark, length time.Duration, maxBytes int64) (moved bool, err error) {
	slot, err := pgsource.ReadSlot(ctx, conn, live)
	if err != nil || slot == nil {
		return false, err
	}
	target := b.LSN
	e, err := history.At(ctx, conn, live, time.Now().Add(-length))
	if err != nil {
		return false, err
	}
	if e != nil {
		target = max(target, e.LSN)
	}
	if end := slot.End; end > cdc.LSN(maxBytes) {
		target = max(target, end-cdc.LSN(maxBytes))
	}
	if target = min(target, slot.ConfirmedFlush); target < b.LSN+minAdvance {
		return false, nil
	}
	dated := e != nil && target == e.LSN
	step := cmp.Or(w.step, maxAdvance)
	target = min(target, b.LSN+step)
	if _, err := Advance(ctx, conn, live, WindowName, target); err != nil {
		w.step = max(step/2, minAdvance)
		return false, err
	}
	w.step = min(2*step, maxAdvance)
	at := time.Now()
	if dated && target == e.LSN {
		at = e.At
	}
	return true, history.Keep(ctx, conn, b.Slot, at)
}
