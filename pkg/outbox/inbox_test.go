package outbox

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

func inboxDatabase(t *testing.T) envtest.Database {
	t.Helper()
	db := envtest.NewDatabase(t)
	db.Exec(t, InboxSQL)
	db.Exec(t, InboxSQL) // it may be run at each start
	return db
}

func TestInbox(t *testing.T) {
	db := inboxDatabase(t)
	conn := db.Connect(t)
	in, id := Inbox{Consumer: "billing"}, uuid.MustParse(testID)
	effects := 0
	once := func(in Inbox, fnErr error) error {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
		if err := in.Once(t.Context(), tx, id, func(context.Context) error { effects++; return fnErr }); err != nil {
			return err
		}
		return tx.Commit(t.Context())
	}
	boom := errors.New("boom")
	steps := []struct {
		name    string
		in      Inbox
		fnErr   error
		want    error
		effects int
	}{
		{"Fails", in, boom, boom, 1},
		{"AgainAfterFailure", in, nil, nil, 2},
		{"Repeated", in, nil, nil, 2},
		{"OtherConsumer", Inbox{}, nil, nil, 3},
	}
	for _, s := range steps {
		if err := once(s.in, s.fnErr); !errors.Is(err, s.want) || effects != s.effects {
			t.Fatalf("%s: Once() = %v after %d effects, want %v after %d", s.name, err, effects, s.want, s.effects)
		}
	}
	if _, err := (Inbox{Table: "a.b.c"}).Seen(t.Context(), conn, id); err == nil {
		t.Error("Seen takes a table name of three parts")
	}
}

func TestInboxSQL(t *testing.T) {
	db := inboxDatabase(t)
	std, err := sql.Open("pgx", db.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = std.Close() }()
	id, in, effects := uuid.New(), Inbox{Table: "inbox"}, 0
	for range 2 {
		if err := in.OnceSQL(t.Context(), std, id, func(context.Context) error { effects++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if seen, err := in.SeenSQL(t.Context(), std, id); err != nil || !seen || effects != 1 {
		t.Errorf("SeenSQL() = %t, %v after %d effects, want true after 1", seen, err, effects)
	}
	if n, err := in.PurgeSQL(t.Context(), std, 0); err != nil || n != 1 {
		t.Errorf("PurgeSQL() = %d, %v, want 1", n, err)
	}
}

func TestInboxPurge(t *testing.T) {
	db := inboxDatabase(t)
	conn := db.Connect(t)
	mustExec(t, conn, `INSERT INTO inbox (consumer, id, received_at) VALUES
  ('', gen_random_uuid(), now() - interval '25 hours'), ('', gen_random_uuid(), now() - interval '23 hours'),
  ('other', gen_random_uuid(), now() - interval '25 hours')`)
	n, err := Inbox{}.Purge(t.Context(), conn, 24*time.Hour)
	if err != nil || n != 1 {
		t.Errorf("Purge() = %d, %v, want 1", n, err)
	}
	if got := rows(t, db, "SELECT count(*)::text FROM inbox")[0]; got != "2" {
		t.Errorf("%s ids are left, want 2", got)
	}
}

// Two consumers that have the same event at once, as around a rebalance: the
// second waits for the first, and sees what became of it.
func TestInboxWaits(t *testing.T) {
	db := inboxDatabase(t)
	first, err := db.Connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	if seen, err := (Inbox{}).Seen(t.Context(), first, id); err != nil || seen {
		t.Fatalf("Seen() = %t, %v, want false", seen, err)
	}
	second, watch := db.Connect(t), db.Connect(t)
	result := make(chan error, 1)
	go func() {
		seen, err := Inbox{}.Seen(t.Context(), second, id)
		if err == nil && !seen {
			err = errors.New("not seen")
		}
		result <- err
	}()
	for waits := false; !waits; {
		const query = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = $1)"
		if err := watch.QueryRow(t.Context(), query, second.PgConn().PID()).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("the second consumer: %v", err)
	}
}
