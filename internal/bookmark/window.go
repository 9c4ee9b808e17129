package bookmark

import (
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

// KeepWindow makes the bookmark of the window if there is none, and moves it to where the
// window begins: length ago, or maxBytes before the end of WAL if that is nearer. A length
// of zero drops it. It never moves it beyond what the live slot has confirmed, and reports
// whether anything was changed. One that is lost is made anew.
func KeepWindow(ctx context.Context, conn *pgx.Conn, live string, length time.Duration, maxBytes int64) (changed bool, err error) {
	b, err := get(ctx, conn, live, Window)
	var refused *cdc.RefusedError
	missing := errors.As(err, &refused)
	switch {
	case err != nil && !missing:
		return false, err
	case length == 0 && missing:
		return false, nil
	case length == 0, !missing && !b.Usable:
		return true, Drop(ctx, conn, live, Window)
	case missing:
		_, err := Create(ctx, conn, live, Window, false, Limits{MaxBytes: maxBytes})
		return err == nil, err
	}
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
	target = min(target, b.LSN+maxAdvance)
	if _, err := Advance(ctx, conn, live, Window, target); err != nil {
		return false, err
	}
	at := time.Now()
	if dated && target == e.LSN {
		at = e.At
	}
	return true, history.Keep(ctx, conn, b.Slot, at)
}
