package pgsource

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// Limits that the database has for sessions end neither a pull nor a stream that the sink
// holds up for longer, in the middle of a transaction or between two chunks.
func TestLimitsOfTheDatabase(t *testing.T) {
	for _, version := range envtest.Versions() {
		pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: version})
		for _, above := range []int64{0, 1 << 20} {
			t.Run(fmt.Sprintf("%s/PullAbove%d", pg.Version, above), func(t *testing.T) {
				db := envtest.NewDatabaseOn(t, pg)
				cfg, log, write := outbox(t, db)
				cfg.PullAbove = above
				write(1, 3000)
				db.Exec(t, "INSERT INTO outbox SELECT i, repeat('x', 1000) FROM generate_series(3001, 13000) AS _ (i)")
				db.Exec(t, `DO $$ DECLARE s text; BEGIN
					FOR s IN SELECT name FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_session_timeout') LOOP
						EXECUTE format('ALTER DATABASE %I SET %I = ''500ms''', current_database(), s);
					END LOOP;
				END $$`)
				src := newSource(t, cfg)
				src.firstChunk, src.spoolSize = 1<<20, 100_000
				n := 0
				held := &run{slow: func() {
					if n++; n == 100 || n == 8000 {
						time.Sleep(1500 * time.Millisecond)
					}
				}}
				r := start(t, src, cdc.Position{}, held)
				if got := r.await(13000); !slices.Equal(got, numbers(1, 13000)) {
					t.Errorf("got %d rows, want 1 to 13000 in order", len(got))
				}
				r.stop()
				if pulled := strings.Contains(log.String(), "backlog pulled"); pulled != (above > 0) {
					t.Errorf("pulled: %t\n%s", pulled, log)
				}
			})
		}
	}
}

// Limits that the database has do not end the creation of a slot, which waits for who is writing.
func TestSlotIsMadeBeyondLimits(t *testing.T) {
	for name, exported := range map[string]func(context.Context, Exported) error{
		"Plain": nil, "WithSnapshot": func(_ context.Context, e Exported) error { e.Release(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			db := envtest.NewDatabase(t)
			cfg, _, _ := outbox(t, db)
			cfg.Slot, cfg.CreateSlot, cfg.Exported = envtest.Name(t)+"_new", true, exported
			db.Exec(t, "ALTER DATABASE "+db.Name+" SET statement_timeout = '200ms'")
			db.Exec(t, "ALTER DATABASE "+db.Name+" SET lock_timeout = '200ms'")
			writer, look := db.Connect(t), db.Connect(t)
			if _, err := writer.Exec(t.Context(), "BEGIN; SELECT pg_current_xact_id()"); err != nil {
				t.Fatal(err)
			}
			opened := make(chan error, 1)
			go func() {
				_, err := open(t, cfg)
				opened <- err
			}()
			const query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query_start < clock_timestamp() - interval '500ms')"
			for waited := false; !waited; time.Sleep(20 * time.Millisecond) {
				if err := look.QueryRow(t.Context(), query).Scan(&waited); err != nil {
					t.Fatal(err)
				}
				select {
				case err := <-opened:
					t.Fatalf("Open() = %v before the writer has ended", err)
				default:
				}
			}
			if _, err := writer.Exec(t.Context(), "COMMIT"); err != nil {
				t.Fatal(err)
			}
			if err := <-opened; err != nil {
				t.Errorf("Open() = %v", err)
			}
			db.Exec(t, "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE slot_name = '"+cfg.Slot+"'")
		})
	}
}

// A server that tells of no session what it does is believed to be at work while it decodes
// and nothing comes.
func TestPullWithoutTrackActivities(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"track_activities": "off"}})
	db := envtest.NewDatabaseOn(t, pg)
	cfg, log, _ := outbox(t, db)
	const rows = 200_000 // in one transaction
	db.Exec(t, fmt.Sprintf("INSERT INTO outbox SELECT i, repeat('x', 1000) FROM generate_series(1, %d) AS _ (i)", rows))
	cfg.StatusInterval = 50 * time.Millisecond // as often it is looked at
	r := start(t, newSource(t, cfg), cdc.Position{}, &run{})
	r.await(rows)
	r.stop()
	if !strings.Contains(log.String(), "backlog pulled") {
		t.Errorf("log:\n%s", log)
	}
}

// A backlog that could not be pulled is tried again, each time after a longer pause.
func TestPullPause(t *testing.T) {
	var b backlog
	now := time.Now()
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour} {
		b.pause(now)
		if b.open(now) || b.open(now.Add(want-1)) || !b.open(now.Add(want)) {
			t.Fatalf("want a pause of %s, got %s", want, b.paused)
		}
	}
	b.off = true
	if b.open(now.Add(2 * time.Hour)) {
		t.Error("open although it is off")
	}
}
