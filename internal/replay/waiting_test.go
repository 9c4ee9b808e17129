package replay

import (
	"errors"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// Events that wait are passed over and counted: those of WAL by their place, those of a table
// by their id. What is not asked for is no one's to wait for.
func TestRouteWaiting(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	letter := &cdc.Letter{History: cdc.Position{SystemID: 7}, Event: &cdc.Record{ID: []byte("17"), CommitLSN: 5, Ordinal: 2}}
	for name, c := range map[string]struct {
		cluster uint64
		lsn     cdc.LSN
		ordinal int64
		id, key string
		waits   bool
	}{
		"place":               {7, 5, 2, "", "a1", true},
		"another row":         {7, 5, 1, "17", "a1", false},
		"another transaction": {7, 6, 2, "17", "a1", false},
		"another cluster":     {8, 5, 2, "17", "a1", false},
		"id":                  {0, 0, 3, "17", "a1", true},
		"another id":          {0, 0, 2, "18", "a1", false},
		"not asked for":       {7, 5, 2, "17", "a2", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := NewWaiting(c.cluster)
			w.Add(letter)
			r := NewRoute(t.Context(), Plan{Options: Options{Key: "a1"}}, w, func(ev *cdc.Event) (*cdc.Record, error) {
				rec, err := plain(ev)
				rec.ID = []byte(c.id)
				return rec, err
			})
			ev := event(c.key, "x", at)
			ev.Transaction.CommitLSN, ev.Ordinal = c.lsn, c.ordinal
			_, err := r.Route(ev)
			if n := r.Counts(); errors.Is(err, cdc.ErrSkip) != (c.waits || c.key != "a1") || n.Waiting > 0 != c.waits || n.Published+n.Passed+n.Waiting != 1 {
				t.Errorf("got %v, counted %+v", err, n)
			}
		})
	}
}
