package clone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/sink/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setup is a guard between the parts above.
type setup struct {
	*Guard
	notes  *notes
	memory *memory
	origin *origin
	source cdc.Source
	store  cdc.Store
	log    bytes.Buffer
}

func newSetup() *setup {
	s := &setup{notes: &notes{byKey: map[string][]byte{}, mostOne: true}, memory: &memory{}, origin: &origin{server: at(1000)}}
	s.Guard = New(Config{Slot: "s", Topic: "t", Store: "postgres", Owner: "me", Notes: s.notes, Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	s.source, s.store = s.Source(s.origin), s.Store(s.memory)
	return s
}

// open does as the pipeline.
func (s *setup) open(ctx context.Context) error {
	_, err := s.source.Open(ctx, func(ctx context.Context, _ cdc.Position) (cdc.Position, error) {
		cp, err := s.store.Load(ctx)
		return cp.Position, err
	})
	return err
}

// running calls f beside Run, then does as a stop, within what that may take.
func (s *setup) running(t *testing.T, f func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	synctest.Wait()
	f()
	cancel()
	begun := time.Now()
	if err := <-done; err != nil {
		t.Errorf("Run() = %v", err)
	}
	s.Last(ctx)
	if took := time.Since(begun); took > time.Second {
		t.Errorf("the stop took %s", took)
	}
}

func (s *setup) acquire(t *testing.T) {
	t.Helper()
	if _, err := s.store.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *setup) save(t *testing.T, lsn cdc.LSN) {
	t.Helper()
	if err := s.store.Save(t.Context(), at(lsn)); err != nil {
		t.Fatal(err)
	}
}

// Marks follow saves: at once after a start, then no more often than the interval, one at a
// time, and once more at a stop. No save waits for one.
func TestMarksAreRateLimited(t *testing.T) {
	for _, takes := range []time.Duration{0, 3 * time.Second, 20 * time.Second} {
		t.Run(fmt.Sprint(takes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSetup()
				s.notes.takes = takes
				s.memory.cp = cdc.Checkpoint{Position: at(10), Epoch: 4}
				s.running(t, func() {
					s.acquire(t)
					synctest.Wait()
					if s.notes.count() != 1 {
						t.Errorf("%d marks after Acquire, want the new epoch", s.notes.count())
					}
					for i := range 600 {
						begun := time.Now()
						s.save(t, cdc.LSN(11+i))
						if time.Since(begun) > 0 {
							t.Fatal("a save has waited")
						}
						time.Sleep(100 * time.Millisecond)
					}
				})
				for i := 1; i < len(s.notes.writes)-1; i++ {
					if apart := s.notes.writes[i].Sub(s.notes.writes[i-1]); apart < 10*time.Second {
						t.Errorf("two marks are %s apart", apart)
					}
				}
				if !s.notes.mostOne {
					t.Error("two marks were under way")
				}
				if takes == 0 {
					if m := s.notes.written(t); m.LSN != 610 || m.Epoch != 5 || m.Slot != "s" || m.Owner != "me" || m.Store != "postgres" || m.SavedAt.IsZero() {
						t.Errorf("noted %+v", m)
					}
				}
			})
		})
	}
}

// Nothing new, a save that has failed, and the saves of an owner that is fenced are not noted.
func TestMarksOnlyOfWhatIsNewAndSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup()
		s.running(t, func() {
			s.acquire(t)
			s.save(t, 10)
			synctest.Wait()
			pos := at(10)
			pos.Partial = cdc.Partial{CommitLSN: 12, Rows: 1, LastID: "x"}
			for range 100 {
				if err := s.store.Save(t.Context(), pos); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			}
			if n := s.notes.count(); n != 1 {
				t.Errorf("%d marks, want 1: the position has not moved", n)
			}
			s.memory.fail = errors.New("lost")
			_ = s.store.Save(t.Context(), at(20))
			time.Sleep(time.Minute)
			s.memory.fail = nil
			s.save(t, 30)
			synctest.Wait()
			s.save(t, 35) // due at a stop, if it were still the owner's to note
			s.memory.fail = cdc.ErrFenced
			_ = s.store.Save(t.Context(), at(40))
		})
		if m := s.notes.written(t); m.LSN != 30 {
			t.Errorf("noted %+v, want what was saved and noted before another took over", m)
		}
	})
}

// A mark that could not be written is written later; where none can be, that is said once each
// time it comes to that, and not tried again.
func TestMarksThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, before := newSetup(), 0
		s.running(t, func() {
			s.acquire(t)
			s.notes.set(errors.New("away"), nil)
			s.save(t, 10)
			time.Sleep(5 * interval)
			s.notes.set(nil, nil)
			time.Sleep(2 * interval)
			if m := s.notes.written(t); m.LSN != 10 {
				t.Errorf("noted %+v, want the position", m)
			}
			s.notes.set(fmt.Errorf("write: %w", kafka.ErrUnusable), nil)
			before = s.notes.count()
			for i := range 100 {
				s.save(t, cdc.LSN(11+i))
				time.Sleep(time.Second)
			}
			if n := s.notes.count() - before; n != 1 {
				t.Errorf("%d tries, want 1", n)
			}
			s.notes.set(nil, nil)
			time.Sleep(2 * unusableInterval)
			if m := s.notes.written(t); m.LSN != 110 {
				t.Errorf("noted %+v, want the position, now that the topic can be used", m)
			}
			s.notes.set(kafka.ErrUnusable, nil)
			s.save(t, 120)
			time.Sleep(interval)
			before = s.notes.count()
		})
		if s.notes.count() != before {
			t.Error("a stop has tried again")
		}
		if n := strings.Count(s.log.String(), "level=INFO msg=\"a copy of the server's disk at the same brokers would not be noticed"); n != 2 {
			t.Errorf("said %d times:\n%s", n, s.log.String())
		}
	})
}

// A copy is refused before its checkpoint is acquired, again and again; the owner that has
// acquired is not asked again.
func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup()
		s.memory.cp = cdc.Checkpoint{Position: at(10), Epoch: 4}
		if err := s.open(t.Context()); err != nil {
			t.Fatalf("Open() without a mark = %v", err)
		}
		s.acquire(t)
		s.save(t, 10)
		s.Last(t.Context())
		reads := s.notes.read
		if err := s.open(t.Context()); err != nil || s.notes.read != reads {
			t.Errorf("Open() of the owner = %v, %d reads more", err, s.notes.read-reads)
		}
		other := newSetup()
		other.notes, other.Guard.cfg.Notes = s.notes, s.notes
		other.memory.cp = cdc.Checkpoint{Position: at(10), Epoch: 4}
		for range 2 {
			if err := other.open(t.Context()); !errors.As(err, new(*cdc.RefusedError)) {
				t.Errorf("Open() of a copy = %v, want a refusal", err)
			}
		}
		if other.origin.closed != 4 || other.memory.cp.Epoch != 4 {
			t.Errorf("%d streams closed of 4, epoch %d", other.origin.closed, other.memory.cp.Epoch)
		}
		other.Last(t.Context())
		if m := s.notes.written(t); m.Epoch != 5 {
			t.Errorf("the copy has noted %+v", m)
		}
		if err := Free(t.Context(), s.notes, 7, "s", "t"); err != nil {
			t.Fatal(err)
		}
		if err := other.open(t.Context()); err != nil {
			t.Errorf("Open() after Free = %v", err)
		}
		s.memory.cp.Epoch = 9 // another process has taken over here
		if err := s.open(t.Context()); err != nil || s.notes.read == reads {
			t.Errorf("Open() after another owner = %v, and the mark was not read", err)
		}
	})
}

// While no broker answers the start waits; if brokers answer, and the mark cannot be read, or
// is none, it goes on.
func TestCheckWithoutMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup()
		down := errors.New("connection refused")
		s.notes.set(down, down)
		opened := make(chan error, 1)
		go func() { opened <- s.open(t.Context()) }()
		time.Sleep(time.Hour)
		select {
		case err := <-opened:
			t.Fatalf("Open() = %v while no broker answers", err)
		default:
		}
		s.notes.set(nil, nil)
		if err := <-opened; err != nil {
			t.Errorf("Open() = %v", err)
		}

		s.notes.set(down, down)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.open(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Open() = %v, want the end of ctx", err)
		}

		for _, fail := range []error{down, kafka.ErrUnusable} {
			s.notes.set(fail, nil)
			if err := s.open(t.Context()); err != nil {
				t.Errorf("Open() with %v = %v", fail, err)
			}
		}
		s.notes.set(nil, nil)
		s.notes.byKey[key(7, "s", "t")] = []byte("hello")
		if err := s.open(t.Context()); err != nil || !strings.Contains(s.log.String(), "none of walpost's") {
			t.Errorf("Open() with what is no mark = %v\n%s", err, s.log.String())
		}
	})
}

// A mark that another instance has written while this one waited for the brokers is judged by
// what the server says after it.
func TestCheckLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup()
		s.memory.cp = cdc.Checkpoint{Position: at(10), Epoch: 4}
		down := errors.New("connection refused")
		s.notes.set(down, down)
		opened := make(chan error, 1)
		go func() { opened <- s.open(t.Context()) }()
		time.Sleep(time.Minute)
		other := newSetup() // which has the slot meanwhile
		other.memory.cp, other.origin.server = s.memory.cp, at(5000)
		other.acquire(t)
		other.save(t, 4000)
		other.Last(t.Context())
		s.memory.cp, s.origin.server = other.memory.cp, at(6000)
		s.notes.mu.Lock()
		s.notes.byKey = other.notes.byKey
		s.notes.mu.Unlock()
		s.notes.set(nil, nil)
		if err := <-opened; err != nil || s.origin.closed != 1 {
			t.Errorf("Open() = %v, %d streams closed of 1", err, s.origin.closed)
		}
	})
}

// Once a checkpoint was removed, what is noted of it holds against none that follows it,
// though this process ends before it has noted anything.
func TestCheckForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetup()
		s.memory.cp = cdc.Checkpoint{Position: at(10), Epoch: 4}
		s.acquire(t)
		s.save(t, 20)
		s.Last(t.Context())
		for range 2 {
			next := newSetup()
			next.notes, next.Guard.cfg.Notes, next.memory = s.notes, s.notes, s.memory
			next.store = next.Store(s.memory)
			if err := next.open(t.Context()); err != nil {
				t.Fatalf("Open() = %v", err)
			}
			s.memory.cp = cdc.Checkpoint{}
			if err := next.open(t.Context()); err != nil {
				t.Fatalf("Open() after the removal = %v", err)
			}
			next.acquire(t)
			next.save(t, 15) // and killed
		}
		next := newSetup()
		next.notes, next.Guard.cfg.Notes, next.memory = s.notes, s.notes, s.memory
		next.store = next.Store(s.memory)
		if err := next.open(t.Context()); err != nil {
			t.Errorf("Open() after a kill = %v", err)
		}
	})
}
