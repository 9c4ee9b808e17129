package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// A table that another session has for itself is waited for, in the plan and before its chunks,
// and the log names that session, over and over.
func TestLockedTable(t *testing.T) {
	f := newFixture(t)
	f.exec(`DROP TABLE outbox CASCADE; CREATE TABLE outbox (id text, n int) PARTITION BY RANGE (n);
		CREATE TABLE p1 PARTITION OF outbox FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF outbox FOR VALUES FROM (10) TO (20);
		ALTER PUBLICATION walpost ADD TABLE outbox; INSERT INTO outbox SELECT 'row ' || n, n FROM generate_series(0, 19) n`)
	s := f.source()
	l := &told{}
	s.locks = &locks{log: slog.New(slog.NewTextHandler(l, nil)), timeout: 50 * time.Millisecond}
	st, err := f.open(s, cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}

	f.whileLocked("p2", l, func() {
		if _, err := makePlan(t.Context(), f.db.Connect(t), s.cfg, *st.(*stream).exported, s.locks); err != nil {
			t.Error(err)
		}
	})
	var c *collector
	f.whileLocked("p1", l, func() { c = f.collect(st, 20) })
	want := make([]string, 20)
	for n := range want {
		want[n] = fmt.Sprint("row ", n)
	}
	slices.Sort(want)
	if !slices.Equal(c.ids, want) {
		t.Errorf("got %q, want %q", c.ids, want)
	}
}

// whileLocked calls what, which waits for a session that has the table locked, and goes on once that
// session was told of twice.
func (f *fixture) whileLocked(table string, l *told, what func()) {
	f.t.Helper()
	conn := f.db.Connect(f.t)
	if _, err := conn.PgConn().Exec(f.t.Context(), "SET application_name = 'a migration'; BEGIN; LOCK TABLE ONLY "+table+" IN ACCESS EXCLUSIVE MODE").ReadAll(); err != nil {
		f.t.Fatal(err)
	}
	var unlocked sync.WaitGroup
	unlocked.Go(func() {
		for deadline := time.Now().Add(20 * time.Second); l.lines() < 2 && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		_, _ = conn.Exec(context.Background(), "COMMIT")
	})
	what()
	unlocked.Wait()
	l.check(f.t, table)
}

// told is a log.
type told struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *told) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *told) lines() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), "\n")
}

// check wants the session named at least twice, and forgets what was told.
func (l *told) check(t *testing.T, where string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text.String()
	if n := strings.Count(text, `application 'a migration'`); n < 2 || !strings.Contains(text, `table="\"public\".\"outbox\""`) {
		t.Errorf("%s: the session with the lock is named %d times, want at least twice:\n%s", where, n, text)
	}
	l.text.Reset()
}
