package circuit

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	// repeatInterval is the least time between two lines about the same.
	repeatInterval = 10 * time.Second

	// maxSubjects bounds what is remembered. Beyond it all is forgotten, and lines
	// come again that would have been left out.
	maxSubjects = 256
)

// Repeats logs what may repeat many times a second: the first line about a subject
// at once, and then one in ten seconds that says how many were left out. The zero
// value is ready. Safe to use from any goroutine.
type Repeats struct {
	mu   sync.Mutex
	last map[string]repeat // by subject; guarded by mu
}

type repeat struct {
	logged  time.Time
	leftOut int
}

// Log writes a line about a subject, unless one was written a moment ago.
func (r *Repeats) Log(log *slog.Logger, level slog.Level, subject, msg string, args ...any) {
	if leftOut, due := r.due(subject, time.Now()); due {
		if leftOut > 0 {
			args = append(args, "left_out", leftOut)
		}
		log.Log(context.Background(), level, msg, args...)
	}
}

// Forget makes the next line about any subject come at once.
func (r *Repeats) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.last)
}

func (r *Repeats) due(subject string, now time.Time) (leftOut int, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, seen := r.last[subject]
	if seen && now.Sub(last.logged) < repeatInterval {
		last.leftOut++
		r.last[subject] = last
		return 0, false
	}
	if r.last == nil || !seen && len(r.last) >= maxSubjects {
		r.last = make(map[string]repeat)
	}
	r.last[subject] = repeat{logged: now}
	return last.leftOut, true
}

// WithoutNumbers makes one subject of errors that differ in a port or a time.
func WithoutNumbers(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, s)
}
