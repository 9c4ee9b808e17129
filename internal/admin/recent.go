package admin

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxRecent is how many lines are kept.
const maxRecent = 50

// Line is a line of the log.
type Line struct {
	Time  time.Time `json:"time"`
	Level string    `json:"level"`
	Text  string    `json:"text"`
}

// Recent keeps the last warnings and errors of a log, for the status page. The zero value is
// ready. Safe to use from any goroutine.
type Recent struct {
	mu    sync.Mutex
	lines []Line // guarded by mu; the newest first
}

// Lines returns what is kept, the newest first.
func (r *Recent) Lines() []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

// Handler returns one that passes all on to next, and keeps what is a warning or worse.
func (r *Recent) Handler(next slog.Handler) slog.Handler { return &keeping{Handler: next, recent: r} }

type keeping struct {
	slog.Handler
	recent *Recent
	before string // the attributes of WithAttrs
}

func (k *keeping) Handle(ctx context.Context, rec slog.Record) error {
	if rec.Level >= slog.LevelWarn {
		k.keep(rec)
	}
	return k.Handler.Handle(ctx, rec)
}

func (k *keeping) keep(rec slog.Record) {
	var b strings.Builder
	b.WriteString(rec.Message + k.before)
	rec.Attrs(func(a slog.Attr) bool {
		b.WriteString(attrText(a))
		return true
	})
	r := k.recent
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = slices.Insert(r.lines, 0, Line{rec.Time, rec.Level.String(), b.String()})
	r.lines = r.lines[:min(len(r.lines), maxRecent)]
}

func attrText(a slog.Attr) string { return " " + a.Key + "=" + a.Value.Resolve().String() }

func (k *keeping) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := &keeping{k.Handler.WithAttrs(attrs), k.recent, k.before}
	for _, a := range attrs {
		next.before += attrText(a)
	}
	return next
}

func (k *keeping) WithGroup(name string) slog.Handler {
	return &keeping{k.Handler.WithGroup(name), k.recent, k.before}
}
