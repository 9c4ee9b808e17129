package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

// screens takes each write as one screen.
type screens chan string

func (s screens) Write(p []byte) (int, error) {
	s <- string(p)
	return len(p), nil
}

// next waits for a screen that will do.
func (s screens) next(t *testing.T, what string, will func(string) bool) {
	t.Helper()
	late := time.After(time.Minute)
	last := ""
	for {
		select {
		case last = <-s:
			if will(last) {
				return
			}
		case <-late:
			t.Fatalf("%s: not seen in a minute; the last was\n%s", what, last)
		}
	}
}

func has(part string) func(string) bool {
	return func(s string) bool { return strings.Contains(s, part) }
}

// watch runs walpost status --watch; stop ends it, and wants it to end well.
func watch(t *testing.T, stdout, stderr io.Writer, args ...string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, append([]string{"status", "--watch", "--admin.listen", ""}, args...), nil, stdout, stderr)
	}()
	return func() {
		t.Helper()
		cancel()
		select {
		case code := <-ended:
			if code != exitOK {
				t.Errorf("exit %d, want %d", code, exitOK)
			}
		case <-time.After(time.Minute):
			t.Error("not ended in a minute")
		}
	}
}

// allowConnections says whether the database takes sessions.
func allowConnections(t *testing.T, db envtest.Database, allow string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), envtest.Postgres(t).DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "ALTER DATABASE "+pgx.Identifier{db.Name}.Sanitize()+" ALLOW_CONNECTIONS "+allow); err != nil {
		t.Fatal(err)
	}
}

// The status is shown again and again, as plain text where there is no terminal and as documents
// with --output json; what fails is shown, and tried again.
func TestStatusWatch(t *testing.T) {
	const refused = "not currently accepting connections"
	db := envtest.NewDatabase(t)
	t.Run("text", func(t *testing.T) {
		shown := make(screens, 100)
		stop := watch(t, shown, io.Discard, "--dsn", db.DSN, "--slot", "nosuch")
		plain := func(s string) bool {
			return strings.Contains(s, "slot        nosuch") && !strings.Contains(s, "\x1b")
		}
		shown.next(t, "status", plain)
		shown.next(t, "status again", plain)
		allowConnections(t, db, "false")
		shown.next(t, "why there is none", has(refused))
		allowConnections(t, db, "true")
		shown.next(t, "status after a failure", plain)
		stop()
	})
	t.Run("json", func(t *testing.T) {
		shown, said := make(screens, 100), make(screens, 100)
		stop := watch(t, shown, said, "--dsn", db.DSN, "--slot", "nosuch", "--output", "json")
		document := func(s string) bool {
			if s != "" && !json.Valid([]byte(s)) {
				t.Errorf("no document: %q", s)
			}
			return strings.Contains(s, `"nosuch"`)
		}
		shown.next(t, "status", document)
		allowConnections(t, db, "false")
		said.next(t, "why there is none", has(refused))
		for len(shown) > 0 { // from before
			document(<-shown)
		}
		allowConnections(t, db, "true")
		shown.next(t, "status after a failure", document)
		stop()
	})
}
