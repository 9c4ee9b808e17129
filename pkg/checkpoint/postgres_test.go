package checkpoint

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
	sqlfiles "github.com/walpost/walpost/sql"
)

func testPostgres(t *testing.T, db envtest.Database) {
	checkpointtest.Run(t, func(t *testing.T) checkpointtest.Harness {
		w, slot := new(wire), envtest.Name(t)
		return checkpointtest.Harness{
			Open: func(t *testing.T) cdc.Store {
				p := openPostgres(t, db.DSN, slot)
				w.attach(p.session)
				return p
			},
			Faults: w.faults(),
		}
	})
}

func TestNewPostgresConfig(t *testing.T) {
	_, err := NewPostgres(PostgresConfig{DSN: "port=none"})
	for _, want := range []string{"slot is empty", "port"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewPostgres() = %v, want it to tell of the %s", err, want)
		}
	}
}

// Slots share the table and nothing else.
func testPostgresSlots(t *testing.T, db envtest.Database) {
	a, b := openPostgres(t, db.DSN, "a"), openPostgres(t, db.DSN, `b"'`)
	mustAcquire(t, a)
	if err := a.Save(t.Context(), at(10)); err != nil {
		t.Fatal(err)
	}
	if got := mustAcquire(t, b); got.Epoch != 1 || !got.IsZero() {
		t.Errorf("Acquire() of the other slot = %+v, want a new checkpoint", got)
	}
	if err := a.Save(t.Context(), at(20)); err != nil {
		t.Errorf("Save() after another slot was acquired = %v", err)
	}
}

func testPostgresCreatesTable(t *testing.T, db envtest.Database) {
	conn := db.Connect(t)
	const exists = `SELECT to_regnamespace('walpost') IS NOT NULL`
	if _, err := openPostgres(t, db.DSN, "s").Load(t.Context()); err != nil {
		t.Errorf("Load() without a table = %v", err)
	}
	if query[bool](t, conn, exists) {
		t.Error("Load() created the schema")
	}
	epochs := make([]int64, 8)
	var wg sync.WaitGroup
	for i := range epochs {
		p := openPostgres(t, db.DSN, "s")
		wg.Go(func() {
			cp, err := p.Acquire(t.Context())
			if err != nil {
				t.Errorf("Acquire() beside others that find no table = %v", err)
			}
			epochs[i] = cp.Epoch
		})
	}
	wg.Wait()
	slices.Sort(epochs)
	if want := []int64{1, 2, 3, 4, 5, 6, 7, 8}; !slices.Equal(epochs, want) {
		t.Errorf("epochs = %v, want %v", epochs, want)
	}
}

func testPostgresRights(t *testing.T, db envtest.Database) {
	role := envtest.Name(t)
	db.Exec(t, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'")
	p := openPostgres(t, db.DSN, "s")
	p.session.config.User, p.session.config.Password = role, "secret"

	_, err := p.Acquire(t.Context())
	wantRefused(t, err, "run walpost init")

	apply(t, db, sqlfiles.Names{}, sqlfiles.Checkpoint)
	_, err = p.Acquire(t.Context())
	wantRefused(t, err, `GRANT SELECT, INSERT, UPDATE ON walpost.checkpoint TO "`+role+`"`)
	_, err = p.Load(t.Context())
	wantRefused(t, err, "GRANT USAGE ON SCHEMA walpost")
	wantRefused(t, p.Save(t.Context(), at(1)), "GRANT USAGE ON SCHEMA walpost")

	apply(t, db, sqlfiles.Names{Role: role}, sqlfiles.Role)
	mustAcquire(t, p)
	if err := p.Save(t.Context(), at(1)); err != nil {
		t.Errorf("Save() with the rights that 005_role.sql grants = %v", err)
	}
}

// A table of an earlier version is named as such.
func testPostgresEarlier(t *testing.T, db envtest.Database) {
	apply(t, db, sqlfiles.Names{}, sqlfiles.Checkpoint)
	db.Exec(t, "ALTER TABLE walpost.checkpoint DROP COLUMN partial_last_id; COMMENT ON TABLE walpost.checkpoint IS NULL")
	p := openPostgres(t, db.DSN, "s")
	_, err := p.Load(t.Context())
	wantRefused(t, err, "run walpost init")
	_, err = p.Acquire(t.Context())
	wantRefused(t, err, "run walpost init")
	apply(t, db, sqlfiles.Names{}, sqlfiles.Checkpoint)
	mustAcquire(t, p)
}

// How the database prints times changes nothing.
func testPostgresDatestyle(t *testing.T, db envtest.Database) {
	db.Exec(t, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET datestyle = %L', current_database(), 'German, DMY'); END $$")
	p := openPostgres(t, db.DSN, "s")
	mustAcquire(t, p)
	before := time.Now()
	if err := p.Save(t.Context(), at(1)); err != nil {
		t.Fatal(err)
	}
	cp, err := p.Load(t.Context())
	if err != nil || cp.SavedAt.Location() != time.UTC || cp.SavedAt.Before(before.Add(-time.Minute)) || cp.SavedAt.After(before.Add(time.Minute)) {
		t.Errorf("Load() = saved at %s, %v, want about %s", cp.SavedAt, err, before)
	}
}

func apply(t *testing.T, db envtest.Database, names sqlfiles.Names, file string) {
	t.Helper()
	steps, err := sqlfiles.Render(names, file)
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, steps[0].SQL)
}

func wantRefused(t *testing.T, err error, hint string) {
	t.Helper()
	var refused *cdc.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Hint, hint) {
		t.Errorf("error = %v, want a RefusedError with the hint %q", err, hint)
	}
}

// The settings must hold where the row is written, and nowhere else.
func testPostgresSettings(t *testing.T, db envtest.Database) {
	p := openPostgres(t, db.DSN+"&options=-c%20synchronous_commit%3Doff", "s")
	mustAcquire(t, p)
	db.Exec(t, `
		CREATE TABLE seen (v text);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO seen SELECT string_agg(current_setting(n), ' ') FROM unnest(ARRAY['synchronous_commit',
				'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'application_name']) AS n;
			RETURN new; END $$;
		CREATE TRIGGER see BEFORE UPDATE ON walpost.checkpoint FOR EACH ROW EXECUTE FUNCTION see();`)
	mustAcquire(t, p)
	if err := p.Save(t.Context(), at(1)); err != nil {
		t.Fatal(err)
	}
	conn := p.session.conn
	got := query[string](t, conn, `SELECT string_agg(v, '; ') FROM seen`)
	if want := "local 5s 3s 10s walpost"; got != want+"; "+want {
		t.Errorf("settings of Acquire and Save = %s, want twice %s", got, want)
	}
	if got := query[string](t, conn, `SELECT current_setting('synchronous_commit')`); got != "off" {
		t.Errorf("synchronous_commit after the calls = %s, want off, as it was", got)
	}
	if got := conn.PgConn().TxStatus(); got != 'I' {
		t.Errorf("transaction status after the calls = %c, want I", got)
	}
}

// A session that the server ended costs one call, whose error tells why.
func testPostgresReconnects(t *testing.T, db envtest.Database) {
	p := openPostgres(t, db.DSN, "s")
	mustAcquire(t, p)
	pid := p.session.conn.PgConn().PID()
	if !query[bool](t, db.Connect(t), `SELECT pg_terminate_backend($1, 5000)`, pid) {
		t.Fatal("the session was not ended")
	}
	var pgErr *pgconn.PgError
	if err := p.Save(t.Context(), at(1)); !errors.As(err, &pgErr) || pgErr.Code != "57P01" {
		t.Errorf("Save() in an ended session = %v, want SQLSTATE 57P01", err)
	}
	if err := p.Save(t.Context(), at(2)); err != nil {
		t.Errorf("the next Save() = %v", err)
	}
}

// A Load, which comes after an interruption, does not fail because the connection
// of before has died.
func testLoadConnectsAnew(t *testing.T, db envtest.Database) {
	slot, err := NewSlot(SlotConfig{DSN: db.DSN, Slot: "s"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slot.Close() })
	postgres := openPostgres(t, db.DSN, "s")
	mustAcquire(t, postgres)
	mustAcquire(t, slot)
	for name, store := range map[string]struct {
		cdc.Store
		*session
	}{"Postgres": {postgres, postgres.session}, "Slot": {slot, slot.session}} {
		if !query[bool](t, db.Connect(t), `SELECT pg_terminate_backend($1, 5000)`, store.conn.PgConn().PID()) {
			t.Fatal("the session was not ended")
		}
		if _, err := store.Load(t.Context()); err != nil {
			t.Errorf("%s: Load() = %v", name, err)
		}
	}
}

// While somebody else holds the row, a call ends with its context, and what it
// sent has no effect once another store has acquired the checkpoint.
func testPostgresRowLocked(t *testing.T, db envtest.Database) {
	p := openPostgres(t, db.DSN, "s")
	mustAcquire(t, p)
	tx, err := db.Connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM walpost.checkpoint FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := p.Save(ctx, at(10)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Save() = %v, want the context's end", err)
	}
	// With more time than that, the server gives up first.
	const blocked = "55P03" // lock_not_available
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Save(ctx, at(20)); !hasCode(err, blocked) {
		t.Errorf("Save() = %v, want SQLSTATE %s", err, blocked)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := mustAcquire(t, openPostgres(t, db.DSN, "s")); !got.IsZero() {
		t.Errorf("Acquire() = %+v, want no position", got)
	}
}

func testPostgresErrors(t *testing.T, db envtest.Database) {
	p := openPostgres(t, db.DSN, "s")
	mustAcquire(t, p)
	mustAcquire(t, openPostgres(t, db.DSN, "s"))
	want := `save checkpoint of slot "s" at 0/A: checkpoint is owned by another process`
	if err := p.Save(t.Context(), at(10)); err == nil || err.Error() != want {
		t.Errorf("Save() = %v, want %s", err, want)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}
	if _, err := p.Load(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("Load() after Close = %v, want %v", err, errClosed)
	}
}

// A server that has frozen is not waited for without end, though the caller has
// set no limit.
func testPostgresFrozen(t *testing.T, db envtest.Database) {
	w := new(wire)
	p := openPostgres(t, db.DSN, "frozen")
	w.attach(p.session)
	mustAcquire(t, p)
	p.session.limit = 50 * time.Millisecond
	w.set(silence)
	_, lerr := p.Load(t.Context()) // on the connection there is
	_, aerr := p.Acquire(t.Context())
	for i, err := range []error{lerr, aerr, p.Save(t.Context(), at(1))} {
		if !errors.Is(err, errNoAnswer) {
			t.Errorf("call %d: %v, want no answer", i, err)
		}
	}
}
