package checkpoint

import (
	"errors"
	"testing"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
)

func testWitnessed(t *testing.T, db envtest.Database) {
	checkpointtest.Run(t, func(t *testing.T) checkpointtest.Harness {
		m, slot := checkpointtest.NewMemory(), envtest.Name(t)
		return checkpointtest.Harness{Open: func(t *testing.T) cdc.Store {
			return NewWitnessed(m.Open(), openPostgres(t, db.DSN, slot))
		}}
	})
}

// A checkpoint that has been there and is gone is refused, at every moment from the
// first Acquire on.
func testWitnessedLost(t *testing.T, db envtest.Database) {
	slot := envtest.Name(t)
	open := func(m *checkpointtest.Memory) *Witnessed {
		return NewWitnessed(m.Open(), openPostgres(t, db.DSN, slot))
	}
	m := checkpointtest.NewMemory()
	w := open(m)
	if cp, err := w.Load(t.Context()); err != nil || !cp.IsZero() {
		t.Fatalf("Load() at first = %+v, %v", cp, err)
	}
	mustAcquire(t, w)
	if cp, err := w.Load(t.Context()); err != nil || !cp.IsZero() || cp.Epoch != 1 {
		t.Errorf("Load() before the first Save = %+v, %v, want a first start", cp, err)
	}
	var refused *cdc.RefusedError
	for range 2 {
		if _, err := open(checkpointtest.NewMemory()).Load(t.Context()); !errors.As(err, &refused) || refused.Hint == "" {
			t.Errorf("Load() of a checkpoint that is gone = %v, want a refusal with a hint", err)
		}
		if err := w.Save(t.Context(), at(10)); err != nil {
			t.Fatal(err)
		}
	}
	if cp, err := open(m).Load(t.Context()); err != nil || cp.Position != at(10) {
		t.Errorf("Load() = %+v, %v, want what was saved", cp, err)
	}
}

// What a Postgres store has left is where Witnessed goes on, the rows of a cut
// transaction included.
func testWitnessedGoesOn(t *testing.T, db envtest.Database) {
	p := openPostgres(t, db.DSN, "s")
	mustAcquire(t, p)
	left := at(10)
	left.Partial = cdc.Partial{CommitLSN: 15, Rows: 3, LastID: "x"}
	if err := p.Save(t.Context(), left); err != nil {
		t.Fatal(err)
	}
	w := NewWitnessed(checkpointtest.NewMemory().Open(), openPostgres(t, db.DSN, "s"))
	if cp, err := w.Load(t.Context()); err != nil || cp.Position != left {
		t.Errorf("Load() = %+v, %v, want %+v", cp, err, left)
	}
	if got := mustAcquire(t, w).Position; got != left {
		t.Errorf("Acquire() = %+v, want %+v", got, left)
	}
	if err := p.Save(t.Context(), at(20)); !errors.Is(err, cdc.ErrFenced) {
		t.Errorf("Save() by the Postgres store = %v, want ErrFenced", err)
	}
	if err := w.Save(t.Context(), at(30)); err != nil {
		t.Fatal(err)
	}
	if cp, err := w.Load(t.Context()); err != nil || cp.Position != at(30) {
		t.Errorf("Load() = %+v, %v, want what was saved", cp, err)
	}
}
