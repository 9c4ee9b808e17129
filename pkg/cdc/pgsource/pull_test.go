package pgsource

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// run is a stream of a source under test, and what its handler has seen.
type run struct {
	t      *testing.T
	st     cdc.Stream
	cancel context.CancelFunc
	ended  chan error

	mu      sync.Mutex
	rows    []string // payloads of committed transactions
	open    []string
	at      cdc.LSN
	block   chan struct{} // while not nil and open, Insert waits
	blocked chan struct{} // receives a value when Insert begins to wait

	slow func() // called for each row, or nil
}

func (r *run) Begin(cdc.Transaction) error { r.open = nil; return nil }

func (r *run) Insert(ctx context.Context, ev *cdc.Event) error {
	r.open = append(r.open, string(ev.Values[0].Data))
	if r.slow != nil {
		r.slow()
	}
	if r.block == nil {
		return nil
	}
	select {
	case r.blocked <- struct{}{}:
	default:
	}
	select {
	case <-r.block:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *run) Commit(end cdc.LSN) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, r.open...)
	r.at = end
	return nil
}

func (r *run) Idle(lsn cdc.LSN) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = max(r.at, lsn)
}

func (r *run) seen() ([]string, cdc.LSN) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.rows), r.at
}

func newSource(t *testing.T, cfg Config) *Source {
	t.Helper()
	src, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// start opens a stream of src from a saved position and runs it.
func start(t *testing.T, src *Source, saved cdc.Position, r *run) *run {
	t.Helper()
	st, err := src.Open(t.Context(), func(_ context.Context, server cdc.Position) (cdc.Position, error) {
		if saved.LSN > 0 {
			saved.SystemID, saved.Timeline = server.SystemID, server.Timeline
		}
		return saved, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.t, r.st, r.cancel, r.ended = t, st, cancel, make(chan error, 1)
	done := make(chan struct{})
	go func() {
		r.ended <- st.Run(ctx, r)
		close(done)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = st.Close()
	})
	return r
}

// await waits until so many rows have come.
func (r *run) await(n int) []string {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		rows, _ := r.seen()
		if len(rows) >= n {
			return rows
		}
		select {
		case err := <-r.ended:
			r.t.Fatalf("Run() = %v after %d of %d rows", err, len(rows), n)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d of %d rows after a minute", len(rows), n)
		}
	}
}

// stop ends the stream in good order and returns where it stands.
func (r *run) stop() cdc.LSN {
	r.t.Helper()
	_, at := r.seen()
	r.st.Stop()
	r.st.Confirm(at)
	r.cancel()
	if err := <-r.ended; err != nil {
		r.t.Errorf("Run() = %v", err)
	}
	if err := r.st.Close(); err != nil {
		r.t.Error(err)
	}
	return at
}

func numbers(first, last int) []string {
	var all []string
	for n := first; n <= last; n++ {
		all = append(all, fmt.Sprint(n))
	}
	return all
}

// outbox makes a table, a publication and a slot, and a function that writes rows
// of a kilobyte in transactions of one.
func outbox(t *testing.T, db envtest.Database) (cfg Config, log *strings.Builder, write func(first, last int)) {
	t.Helper()
	db.Exec(t, `CREATE TABLE outbox (n int, pad text); CREATE TABLE other (n int, pad text); CREATE PUBLICATION p FOR TABLE outbox;
		CREATE PROCEDURE fill(first int, last int) LANGUAGE plpgsql AS $$
		BEGIN
			FOR i IN first..last LOOP
				INSERT INTO outbox VALUES (i, repeat('x', 1000));
				COMMIT;
			END LOOP;
		END $$`)
	slot := envtest.Name(t)
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	log = new(strings.Builder)
	cfg = Config{
		DSN: db.DSN, Slot: slot, Publication: "p", Tables: []Table{{"public", "outbox"}}, Columns: []string{"n", "pad"}, PullAbove: 1 << 20,
		StatusInterval: 200 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&lockedWriter{w: log}, nil)),
	}
	return cfg, log, func(first, last int) {
		t.Helper()
		db.Exec(t, fmt.Sprintf("CALL fill(%d, %d)", first, last))
	}
}

type lockedWriter struct {
	mu sync.Mutex
	w  *strings.Builder
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// A backlog is pulled and what follows is streamed, without gap or repetition,
// from a position that is ahead of the slot's own, and the slot shows what was
// confirmed wherever the stream was stopped.
func TestPull(t *testing.T) {
	for _, version := range envtest.Versions() {
		pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: version})
		t.Run(pg.Version, func(t *testing.T) {
			db := envtest.NewDatabaseOn(t, pg)
			cfg, log, write := outbox(t, db)
			write(1, 3000)
			src := newSource(t, cfg)
			r := start(t, src, cdc.Position{}, &run{})
			r.await(3000)
			write(3001, 3100)
			if got := r.await(3100); !slices.Equal(got, numbers(1, 3100)) {
				t.Errorf("got %d rows, want 1 to 3100 in order", len(got))
			}
			saved := r.stop()
			if !strings.Contains(log.String(), "backlog pulled") {
				t.Errorf("the backlog was not pulled:\n%s", log)
			}
			checkConfirmed(t, db, cfg.Slot, saved)

			// The slot is confirmed less far than what is saved.
			write(3101, 8000)
			r = start(t, src, cdc.Position{LSN: saved}, &run{})
			r.await(4900)
			_, saved = r.seen()
			r.st.Stop()
			r.cancel()
			<-r.ended
			_ = r.st.Close()
			write(8001, 10000)
			r = start(t, src, cdc.Position{LSN: saved}, &run{})
			if got := r.await(2000); !slices.Equal(got, numbers(8001, 10000)) {
				t.Errorf("got %d rows from %s, want 8001 to 10000", len(got), got[0])
			}
			checkConfirmed(t, db, cfg.Slot, r.stop())
			if n := strings.Count(log.String(), "pulling a backlog"); n != 3 {
				t.Errorf("%d pulls, want 3", n)
			}
			var slots int
			if err := db.Connect(t).QueryRow(t.Context(), "SELECT count(*) FROM pg_replication_slots WHERE temporary").Scan(&slots); err != nil || slots > 0 {
				t.Errorf("%d copies of the slot are left, %v", slots, err)
			}
		})
	}
}

func checkConfirmed(t *testing.T, db envtest.Database, slot string, want cdc.LSN) {
	t.Helper()
	var text string
	if err := db.Connect(t).QueryRow(t.Context(), "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", slot).Scan(&text); err != nil {
		t.Fatal(err)
	}
	if got, err := cdc.ParseLSN(text); err != nil || got < want {
		t.Errorf("the slot is confirmed up to %s, want %s", text, want)
	}
}

// sighting is a writer that closes seen when something is written that holds text.
type sighting struct {
	text string
	once sync.Once
	seen chan struct{}
}

func (s *sighting) Write(b []byte) (int, error) {
	if strings.Contains(string(b), s.text) {
		s.once.Do(func() { close(s.seen) })
	}
	return len(b), nil
}

// A stream that falls behind is left at a boundary, what follows is pulled, and the
// stream goes on. Until it is left no more than 2000 rows a second are taken, so that the
// backlog is not gone before anybody has looked.
func TestFallBehind(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	cfg.PullAbove = 256 << 10
	began, ended := &sighting{text: "pulling a backlog", seen: make(chan struct{})}, &sighting{text: "backlog pulled", seen: make(chan struct{})}
	cfg.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(began, ended), nil))
	rows := 0
	slow := func() {
		if rows++; rows%20 == 0 {
			select {
			case <-began.seen:
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	src := newSource(t, cfg)
	r := start(t, src, cdc.Position{}, &run{block: make(chan struct{}), blocked: make(chan struct{}, 1), slow: slow})
	write(1, 1)
	<-r.blocked
	write(2, 20000)
	close(r.block)
	r.await(20000)
	write(20001, 20010)
	if got := r.await(20010); !slices.Equal(got, numbers(1, 20010)) {
		t.Errorf("got %d rows, want 1 to 20010 in order", len(got))
	}
	checkConfirmed(t, db, cfg.Slot, r.stop())
	for _, s := range []*sighting{began, ended} {
		select {
		case <-s.seen:
		default:
			t.Errorf("the log has no %q", s.text)
		}
	}
}

// A stop in the middle of a pull hands over nothing more, and confirms.
func TestStopWhilePulling(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	write(1, 3000)
	src := newSource(t, cfg)
	r := start(t, src, cdc.Position{}, &run{block: make(chan struct{}), blocked: make(chan struct{}, 1)})
	<-r.blocked
	begun := time.Now()
	saved := r.stop()
	t.Logf("stopped after %s", time.Since(begun))
	if rows, _ := r.seen(); len(rows) > 1 {
		t.Errorf("%d rows after the stop", len(rows))
	}
	r = start(t, src, cdc.Position{LSN: saved}, &run{})
	if got := r.await(3000); !slices.Equal(got, numbers(1, 3000)) {
		t.Errorf("got %d rows, want 1 to 3000", len(got))
	}
	r.stop()
}

// A pull whose rows nobody takes is ended, for a query holds vacuum back. What had come
// is handed over, and what follows is streamed.
func TestPullStalls(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, log, write := outbox(t, db)
	cfg.PullAbove = 3 << 20 // so that the second stream does not fall behind
	write(1, 3000)
	src := newSource(t, cfg)
	src.stallLimit, src.spoolSize = time.Second, 100_000
	r := start(t, src, cdc.Position{}, &run{block: make(chan struct{}), blocked: make(chan struct{}, 1)})
	<-r.blocked
	conn := db.Connect(t)
	for deadline, open := time.Now().Add(30*time.Second), true; open; time.Sleep(100 * time.Millisecond) {
		const query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'COPY (SELECT lsn, data%' AND datname = current_database())"
		if err := conn.QueryRow(t.Context(), query).Scan(&open); err != nil || time.Now().After(deadline) {
			t.Fatalf("the pull goes on, %v", err)
		}
	}
	close(r.block)
	var before []string
	for {
		rows, _ := r.seen()
		if len(rows)+len(before) >= 3000 {
			before = append(before, rows...)
			break
		}
		select {
		case err := <-r.ended: // the pull was cut off within a transaction
			if err == nil || !strings.Contains(err.Error(), errStalled.Error()) {
				t.Fatalf("Run() = %v, want %v", err, errStalled)
			}
			rows, at := r.seen()
			before = append(before, rows...)
			_ = r.st.Close()
			r = start(t, src, cdc.Position{LSN: at}, &run{})
		case <-time.After(10 * time.Millisecond):
		}
	}
	r.stop()
	if !slices.Equal(before, numbers(1, 3000)) {
		t.Errorf("got %d rows, want 1 to 3000 in order", len(before))
	}
	if strings.Count(log.String(), "pulling a backlog") > 1 || !strings.Contains(log.String(), "could be handed over") {
		t.Errorf("log:\n%s", log)
	}
}

// A stop in any moment is confirmed: also one that falls into a look at the slot.
func TestStopAtAnyMoment(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	cfg.StatusInterval = time.Millisecond // the looks follow each other
	src := newSource(t, cfg)
	saved := cdc.Position{}
	for n := range 20 {
		r := start(t, src, saved, &run{})
		write(n, n)
		r.await(1)
		saved.LSN = r.stop()
		checkConfirmed(t, db, cfg.Slot, saved.LSN)
	}
}
