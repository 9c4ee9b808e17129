// Package checkpointtest holds the contract of [cdc.Store] as a test suite, and a
// store in memory for tests of what uses one.
package checkpointtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// Harness is one checkpoint under test.
type Harness struct {
	// Open returns another store of the checkpoint, as another process would
	// have it. What it opens it closes with t.Cleanup.
	Open func(t *testing.T) cdc.Store

	// Faults break, each in its own way, what the stores reach the checkpoint
	// through, until mend is called. A call that a fault would block has a
	// context that ends soon.
	Faults map[string]func(t *testing.T) (mend func())

	// Transactional is set for stores whose Save ends a transaction of a sink: a
	// failed one spoils it, and Acquire must follow.
	Transactional bool

	// Overtaken tells an error of a Save beside which another store acquires, where that may
	// also fail without [cdc.ErrFenced]. Nil wants that.
	Overtaken func(error) bool

	// Confirm is set for stores that keep nothing: they have no epoch, fence
	// nobody and save nothing. It moves the position that they read forward,
	// and returns it.
	Confirm func(t *testing.T) cdc.Position
}

// Run checks the stores that newHarness makes. It is called for each test, and
// must return a checkpoint that nobody has touched.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	tests := []struct {
		name    string
		keeps   bool // wants stores that keep something
		confirm bool // wants stores that keep nothing
		run     func(t *testing.T, h Harness)
	}{
		{name: "ZeroAtFirst", run: testZeroAtFirst},
		{name: "ContextDone", run: testContextDone},
		{name: "Faults", run: testFaults},
		{name: "Confirmed", confirm: true, run: testConfirmed},
		{name: "EpochRises", keeps: true, run: testEpochRises},
		{name: "Saved", keeps: true, run: testSaved},
		{name: "NeverLowered", keeps: true, run: testNeverLowered},
		{name: "Partial", keeps: true, run: testPartial},
		{name: "OtherHistory", keeps: true, run: testOtherHistory},
		{name: "NotAcquired", keeps: true, run: testNotAcquired},
		{name: "Fenced", keeps: true, run: testFenced},
		{name: "FaultsOfSave", keeps: true, run: testFaultsOfSave},
		{name: "ConcurrentSaves", keeps: true, run: testConcurrentSaves},
		{name: "FencedWhileSaving", keeps: true, run: testFencedWhileSaving},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			if tt.keeps && h.Confirm != nil {
				t.Skip("the store keeps nothing")
			}
			if tt.confirm && h.Confirm == nil {
				t.Skip("the store keeps what it is given")
			}
			tt.run(t, h)
		})
	}
}

// at returns a position in the history that the tests use.
func at(lsn cdc.LSN) cdc.Position {
	return cdc.Position{SystemID: 7_310_000_000_000_000_001, Timeline: 3, LSN: lsn}
}

func load(t *testing.T, s cdc.Store) cdc.Checkpoint {
	t.Helper()
	cp, err := s.Load(t.Context())
	if err != nil {
		t.Fatalf("Load() = %v", err)
	}
	return cp
}

func acquire(t *testing.T, s cdc.Store) cdc.Checkpoint {
	t.Helper()
	cp, err := s.Acquire(t.Context())
	if err != nil {
		t.Fatalf("Acquire() = %v", err)
	}
	return cp
}

func save(t *testing.T, s cdc.Store, pos cdc.Position) {
	t.Helper()
	if err := s.Save(t.Context(), pos); err != nil {
		t.Fatalf("Save(%s) = %v", pos.LSN, err)
	}
}

// wantStored checks what another process sees.
func wantStored(t *testing.T, h Harness, want cdc.Position) {
	t.Helper()
	if got := load(t, h.Open(t)).Position; got != want {
		t.Errorf("another store loads %+v, want %+v", got, want)
	}
}

func testZeroAtFirst(t *testing.T, h Harness) {
	first, second := h.Open(t), h.Open(t)
	for range 2 { // the first Load changes nothing
		if got := load(t, first); got != (cdc.Checkpoint{}) {
			t.Errorf("Load() = %+v, want zero", got)
		}
		if got := load(t, second); got != (cdc.Checkpoint{}) {
			t.Errorf("Load() by another store = %+v, want zero", got)
		}
	}
}

func testEpochRises(t *testing.T, h Harness) {
	first, second := h.Open(t), h.Open(t)
	var last int64
	for i, s := range []cdc.Store{first, second, second, first, h.Open(t)} {
		got := acquire(t, s)
		if got.Epoch <= last {
			t.Errorf("Acquire() %d: epoch %d after %d", i, got.Epoch, last)
		}
		if !got.IsZero() || !got.SavedAt.IsZero() {
			t.Errorf("Acquire() %d = %+v, want no position", i, got)
		}
		if stored := load(t, second); stored != got {
			t.Errorf("Load() = %+v, want what Acquire returned: %+v", stored, got)
		}
		last = got.Epoch
	}
}

func testSaved(t *testing.T, h Harness) {
	for _, want := range []cdc.Position{
		at(1),
		at(0x16_B374D848),
		{SystemID: math.MaxUint64, Timeline: math.MaxUint32, LSN: math.MaxUint64},
	} {
		s := h.Open(t)
		epoch := acquire(t, s).Epoch
		save(t, s, want)
		got := load(t, h.Open(t))
		if got.Position != want || got.Epoch != epoch {
			t.Errorf("Load() = %+v, want %+v of epoch %d", got, want, epoch)
		}
		if age := time.Since(got.SavedAt).Abs(); age > time.Minute {
			t.Errorf("Load(): SavedAt is off by %s", age)
		}
		if again := acquire(t, h.Open(t)); again.Position != want || !again.SavedAt.Equal(got.SavedAt) {
			t.Errorf("Acquire() = %+v, want what was saved: %+v", again, got)
		}
	}
}

func testNeverLowered(t *testing.T, h Harness) {
	s := h.Open(t)
	acquire(t, s)
	// The larger number has the smaller text.
	save(t, s, at(0x10_00000000))
	for _, lsn := range []cdc.LSN{0x9_00000000, 1, 0x10_00000000} {
		save(t, s, at(lsn))
		wantStored(t, h, at(0x10_00000000))
	}
	save(t, s, at(0x10_00000001))
	wantStored(t, h, at(0x10_00000001))
}

// A partial transaction belongs to its position: it is replaced with it, and by
// what is said later of the same position.
func testPartial(t *testing.T, h Harness) {
	partial := func(lsn cdc.LSN, rows int64) cdc.Position {
		pos := at(lsn)
		pos.Partial = cdc.Partial{CommitLSN: lsn + 50, Rows: rows, LastID: fmt.Sprintf("id-%d", rows)}
		return pos
	}
	s := h.Open(t)
	acquire(t, s)
	for _, tt := range []struct{ save, want cdc.Position }{
		{partial(100, 5), partial(100, 5)},
		{at(99), partial(100, 5)},
		{partial(100, 7), partial(100, 7)},
		{at(100), at(100)},
		{partial(100, 9), partial(100, 9)},
		{at(200), at(200)},
	} {
		save(t, s, tt.save)
		wantStored(t, h, tt.want)
	}
	save(t, s, partial(300, 1))
	if got := acquire(t, h.Open(t)).Position; got != partial(300, 1) {
		t.Errorf("Acquire() = %+v, want what was saved", got)
	}
}

func testOtherHistory(t *testing.T, h Harness) {
	s := h.Open(t)
	acquire(t, s)
	save(t, s, at(100))
	promoted := at(50)
	promoted.Timeline++
	save(t, s, promoted)
	wantStored(t, h, promoted)
	rebuilt := at(20)
	rebuilt.SystemID++
	save(t, s, rebuilt)
	wantStored(t, h, rebuilt)
	save(t, s, at(10))
	wantStored(t, h, at(10))
}

func testNotAcquired(t *testing.T, h Harness) {
	s := h.Open(t)
	if err := s.Save(t.Context(), at(1)); err == nil {
		t.Error("Save() of a checkpoint that nobody acquired = nil")
	}
	acquire(t, h.Open(t))
	if err := s.Save(t.Context(), at(2)); !errors.Is(err, cdc.ErrFenced) {
		t.Errorf("Save() without Acquire = %v, want ErrFenced", err)
	}
	wantStored(t, h, cdc.Position{})
}

func testFenced(t *testing.T, h Harness) {
	first, second := h.Open(t), h.Open(t)
	acquire(t, first)
	save(t, first, at(10))
	if got := acquire(t, second).Position; got != at(10) {
		t.Errorf("Acquire() by the second = %+v, want %+v", got, at(10))
	}
	moved := at(5)
	moved.Timeline++
	for _, pos := range []cdc.Position{at(20), at(10), at(5), moved} {
		if err := first.Save(t.Context(), pos); !errors.Is(err, cdc.ErrFenced) {
			t.Errorf("Save(%+v) by the first = %v, want ErrFenced", pos, err)
		}
		wantStored(t, h, at(10))
	}
	save(t, second, at(15))
	if got := acquire(t, first).Position; got != at(15) {
		t.Errorf("Acquire() by the first = %+v, want %+v", got, at(15))
	}
	save(t, first, at(30))
	if err := second.Save(t.Context(), at(40)); !errors.Is(err, cdc.ErrFenced) {
		t.Errorf("Save() by the second = %v, want ErrFenced", err)
	}
	wantStored(t, h, at(30))
}

// calls are the methods of a store, as an outage meets them.
func calls(s cdc.Store) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Load":    func(ctx context.Context) error { _, err := s.Load(ctx); return err },
		"Acquire": func(ctx context.Context) error { _, err := s.Acquire(ctx); return err },
		"Save":    func(ctx context.Context) error { return s.Save(ctx, at(99)) },
	}
}

func testContextDone(t *testing.T, h Harness) {
	errStop := errors.New("asked to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStop)
	s := h.Open(t)
	for _, used := range []bool{false, true} {
		for name, call := range calls(s) {
			if err := call(ctx); !errors.Is(err, errStop) {
				t.Errorf("%s() = %v, want the cause of the context's end (used before: %t)", name, err, used)
			}
		}
		if got := load(t, h.Open(t)).Position; !got.IsZero() {
			t.Errorf("a call whose context was done stored %+v", got)
		}
		acquire(t, s) // the store works still
	}
}

// soon bounds a call that would block.
const soon = 300 * time.Millisecond

func testFaults(t *testing.T, h Harness) {
	for name, inject := range h.Faults {
		s := h.Open(t)
		for _, method := range []string{"Load", "Acquire"} {
			before := acquire(t, s)
			mend := inject(t)
			ctx, cancel := context.WithTimeout(t.Context(), soon)
			if err := calls(s)[method](ctx); err == nil || errors.Is(err, cdc.ErrFenced) {
				t.Errorf("%s: %s() = %v, want another error", name, method, err)
			}
			cancel()
			mend()
			if got := acquire(t, s); h.Confirm == nil && got.Epoch <= before.Epoch {
				t.Errorf("%s: epoch %d after %d", name, got.Epoch, before.Epoch)
			}
		}
	}
}

// After a failed Save the position is the one or the other, and the store that
// failed goes on with the next Save.
func testFaultsOfSave(t *testing.T, h Harness) {
	s := h.Open(t)
	lsn := cdc.LSN(100)
	for name, inject := range h.Faults {
		acquire(t, s)
		save(t, s, at(lsn))
		mend := inject(t)
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		if err := s.Save(ctx, at(lsn+1)); err == nil || errors.Is(err, cdc.ErrFenced) {
			t.Errorf("%s: Save() = %v, want another error", name, err)
		}
		cancel()
		mend()
		if got := load(t, h.Open(t)).Position; got != at(lsn) && got != at(lsn+1) {
			t.Errorf("%s: Load() = %+v, want the position before or after", name, got)
		}
		if h.Transactional {
			if err := s.Save(t.Context(), at(lsn+2)); err == nil {
				t.Errorf("%s: Save() after one that failed = nil, want that it waits for Acquire", name)
			}
			acquire(t, s)
		}
		save(t, s, at(lsn+2))
		wantStored(t, h, at(lsn+2))
		lsn += 10
	}
}

func testConfirmed(t *testing.T, h Harness) {
	s := h.Open(t)
	for range 2 {
		want := cdc.Checkpoint{Position: h.Confirm(t)}
		if want.SystemID == 0 || want.Timeline == 0 || want.LSN == 0 {
			t.Fatalf("confirmed %+v, want a whole position", want.Position)
		}
		save(t, s, at(math.MaxUint64))
		if got := load(t, s); got != want {
			t.Errorf("Load() = %+v, want %+v", got, want)
		}
		if got := acquire(t, s); got != want {
			t.Errorf("Acquire() = %+v, want %+v", got, want)
		}
		wantStored(t, h, want.Position)
	}
}
