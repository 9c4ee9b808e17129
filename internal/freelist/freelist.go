// Package freelist keeps values for another use. Unlike a sync.Pool it keeps them over
// collections, so that what is in use in steady state is allocated once, and it says how
// much it keeps.
package freelist

import "sync"

// List holds values that nobody uses. All methods may be called from any goroutine. The
// zero value keeps nothing.
type List[T any] struct {
	// Max is how many bytes the list keeps at the most. It must not change once the
	// list is used.
	Max int

	mu    sync.Mutex
	kept  []item[T] // guarded by mu
	bytes int       // guarded by mu; of all in kept
}

type item[T any] struct {
	value *T
	bytes int
}

// Get returns the value that was put last, as it was put, or nil if there is none.
func (l *List[T]) Get() *T {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.kept) - 1
	if n < 0 {
		return nil
	}
	it := l.kept[n]
	l.kept[n] = item[T]{}
	l.kept = l.kept[:n]
	l.bytes -= it.bytes
	return it.value
}

// Put keeps v for Get, or drops it if the list would then keep more than it may. bytes is
// what v holds, and more than 0. The caller must not use v after that.
func (l *List[T]) Put(v *T, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes+bytes > l.Max {
		return
	}
	l.bytes += bytes
	l.kept = append(l.kept, item[T]{v, bytes})
}
