package sleep

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestUntil(t *testing.T) {
	for _, d := range []time.Duration{-time.Second, 0, time.Millisecond, 30 * time.Millisecond} {
		due := time.Now().Add(d)
		if err := Until(t.Context(), due); err != nil || time.Now().Before(due) {
			t.Errorf("%s: %v, %s too early", d, err, time.Until(due))
		}
	}
}

func TestUntilIsCutShort(t *testing.T) {
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(gone) })
	if err := Until(ctx, time.Now().Add(time.Hour)); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}
