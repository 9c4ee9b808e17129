package pgsource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// While a standby is away that synchronized_standby_slots names, the server warns and
// sends nothing from a failover slot: that is waited for, and a pull, which would get
// everything, must not be used to get round it.
func TestStandbyAway(t *testing.T) {
	for _, version := range []string{"17", "18"} {
		pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: version})
		db := envtest.NewDatabaseOn(t, pg)
		cfg, log, write := outbox(t, db)
		db.Exec(t, "SELECT pg_drop_replication_slot('"+cfg.Slot+"')")
		db.Exec(t, "SELECT pg_create_logical_replication_slot('"+cfg.Slot+"', 'pgoutput', failover => true)")
		db.Exec(t, "SELECT pg_create_physical_replication_slot('sb', true)")
		db.Exec(t, "ALTER SYSTEM SET synchronized_standby_slots = 'sb'")
		db.Exec(t, "SELECT pg_reload_conf()")
		write(1, 3000)
		src := newSource(t, cfg)
		r := start(t, src, cdc.Position{}, &run{})
		select {
		case err := <-r.ended:
			t.Fatalf("Run() = %v\n%s", err, log)
		case <-time.After(2 * time.Second):
		}
		if rows, _ := r.seen(); len(rows) > 0 {
			t.Errorf("%d rows were handed over though the standby has none", len(rows))
		}
		db.Exec(t, "ALTER SYSTEM RESET synchronized_standby_slots")
		db.Exec(t, "SELECT pg_reload_conf()")
		r.await(3000)
		r.stop()
		if !strings.Contains(log.String(), "the server warns") {
			t.Errorf("the warning was not logged:\n%s", log)
		}
	}
}

// What such a slot keeps may be looked at, as a take-over does.
func TestReplayOfAGuardedSlot(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: "18", Settings: map[string]string{"synchronized_standby_slots": "away"}})
	db := envtest.NewDatabaseOn(t, pg)
	cfg, _, write := outbox(t, db)
	db.Exec(t, "SELECT pg_drop_replication_slot('"+cfg.Slot+"')")
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+cfg.Slot+"', 'pgoutput', failover => true)")
	write(1, 10)
	conn := db.Connect(t)
	slot, err := ReadSlot(t.Context(), conn, cfg.Slot)
	if err != nil {
		t.Fatal(err)
	}
	source, err := NewReplay(ReplayConfig{Config: cfg, From: slot.ConfirmedFlush, To: slot.End})
	if err != nil {
		t.Fatal(err)
	}
	st, err := source.Open(t.Context(), fromSlot)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{t: t, st: st, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- st.Run(ctx, r) }()
	if got := r.await(10); !slices.Equal(got, numbers(1, 10)) {
		t.Errorf("got %v", got)
	}
	cancel()
	<-r.ended
}

// Text comes in UTF-8, whatever the encoding of the database.
func TestEncoding(t *testing.T) {
	pg := envtest.Postgres(t)
	name := envtest.Name(t)
	envtest.NewDatabaseOn(t, pg).Exec(t, "CREATE DATABASE "+name+" ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
	dsn, err := testenv.DatabaseDSN(pg.DSN(), name)
	if err != nil {
		t.Fatal(err)
	}
	db := envtest.Database{Name: name, DSN: dsn}
	cfg, _, write := outbox(t, db)
	db.Exec(t, "CREATE TABLE words (n text); ALTER PUBLICATION p SET TABLE words")
	cfg.Tables, cfg.Columns = []Table{{"public", "words"}}, []string{"n"}
	cfg.Binary = func(uint32) bool { return true }
	db.Exec(t, "INSERT INTO words VALUES ('caf' || chr(233))")
	write(1, 2000) // a backlog to pull
	src := newSource(t, cfg)
	r := start(t, src, cdc.Position{}, &run{})
	r.await(1)
	db.Exec(t, "INSERT INTO words VALUES ('na' || chr(239) || 'f')")
	if got := r.await(2); got[0] != "café" || got[1] != "naïf" {
		t.Errorf("got %q, want café and naïf", got)
	}
	r.stop()
	db.Exec(t, "SELECT pg_drop_replication_slot('"+cfg.Slot+"')")
}

// A fast shutdown is not held up by a pull whose rows nobody takes.
func TestShutdownWhilePulling(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{})
	db := envtest.Database{Name: "postgres", DSN: pg.DSN()}
	cfg, _, write := outbox(t, db)
	write(1, 20000)
	src := newSource(t, cfg)
	r := start(t, src, cdc.Position{}, &run{block: make(chan struct{}), blocked: make(chan struct{}, 1)})
	<-r.blocked
	begun := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := pg.Stop(ctx, testenv.Fast); err != nil {
		t.Fatal(err)
	}
	if err := <-r.ended; err == nil {
		t.Error("Run() = nil after a shutdown")
	}
	t.Logf("stopped after %s", time.Since(begun))
}

// slow takes its time for each row.
type slow struct {
	*run
	pause time.Duration
}

func (s slow) Insert(ctx context.Context, ev *cdc.Event) error {
	select {
	case <-time.After(s.pause):
		return s.run.Insert(ctx, ev)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A sink that is slow is no stalled one, however often the slot is looked at.
func TestSlowIsNotStalled(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, log, write := outbox(t, db)
	cfg.StatusInterval = 50 * time.Millisecond
	write(1, 2000)
	src := newSource(t, cfg)
	st, err := src.Open(t.Context(), fromSlot)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := st.Run(ctx, slow{&run{}, 300 * time.Millisecond}); err != nil {
		t.Errorf("Run() = %v\n%s", err, log)
	}
}

// What a handler says once the stream was stopped is no failure of the stream.
func TestHandlerStopsFirst(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	src := newSource(t, cfg)
	write(1, 100)
	for range 50 {
		st, err := src.Open(t.Context(), fromSlot)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := st.Run(ctx, &quitter{st: st, cancel: cancel}); err != nil {
			t.Fatalf("Run() = %v", err)
		}
		cancel()
		_ = st.Close()
	}
}

// quitter stops the stream and then refuses the row, as a pipeline does that drains.
type quitter struct {
	run
	st     cdc.Stream
	cancel func()
}

func (q *quitter) Insert(context.Context, *cdc.Event) error {
	q.st.Stop()
	time.AfterFunc(10*time.Millisecond, q.cancel)
	return errors.New("refused")
}

// A pull that a frozen owner has left behind ends when the slot is taken over.
func TestEarlierPullEnds(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, _ := outbox(t, db)
	frozen := db.Connect(t)
	copySlot := fmt.Sprintf("SELECT pg_copy_logical_replication_slot('%s', '%s1', temporary => true)", cfg.Slot, pullPrefix(cfg.Slot))
	if _, err := frozen.Exec(t.Context(), copySlot); err != nil {
		t.Fatal(err)
	}
	src := newSource(t, cfg)
	r := start(t, src, cdc.Position{}, &run{})
	if err := frozen.Ping(t.Context()); err == nil {
		t.Error("the earlier owner's session still lives")
	}
	r.stop()
}
