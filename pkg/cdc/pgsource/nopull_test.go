package pgsource

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// A server that refuses to copy the slot is streamed from.
func TestPullRefused(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"max_replication_slots": "1"}})
	db := envtest.NewDatabaseOn(t, pg)
	cfg, log, write := outbox(t, db)
	write(1, 3000)
	src := newSource(t, cfg)
	r := start(t, src, cdc.Position{}, &run{})
	if got := r.await(3000); !slices.Equal(got, numbers(1, 3000)) {
		t.Errorf("got %d rows, want 1 to 3000", len(got))
	}
	r.stop()
	if !strings.Contains(log.String(), "cannot pull the backlog") {
		t.Errorf("log:\n%s", log)
	}
}

// An old transaction keeps the copy of the slot where it is, so that the server would decode
// everything again for each chunk: the stream takes over behind the first one.
func TestPullRedecodes(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, log, write := outbox(t, db)
	old, err := db.Connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Exec(t.Context(), "INSERT INTO outbox VALUES (3001, 'old')"); err != nil {
		t.Fatal(err)
	}
	write(1, 3000)
	src := newSource(t, cfg)
	src.firstChunk, src.maxRedecode = 1<<20, 1<<19
	r := start(t, src, cdc.Position{}, &run{})
	r.await(3000)
	if err := old.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.await(3001); !slices.Equal(got, numbers(1, 3001)) {
		t.Errorf("got %d rows, want 1 to 3001 in order", len(got))
	}
	checkConfirmed(t, db, cfg.Slot, r.stop())
	if strings.Count(log.String(), "pulling a backlog") != 1 || !strings.Contains(log.String(), "pulling is slow") {
		t.Errorf("log:\n%s", log)
	}
}

// A server that may not write temporary files for the query refuses it, and is streamed from.
func TestPullWithoutTemporaryFiles(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, log, write := outbox(t, db)
	db.Exec(t, `DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %I SET temp_file_limit = 0', current_database());
		EXECUTE format('ALTER DATABASE %I SET work_mem = ''1MB''', current_database());
	END $$`)
	write(1, 3000)
	r := start(t, newSource(t, cfg), cdc.Position{}, &run{})
	if got := r.await(3000); !slices.Equal(got, numbers(1, 3000)) {
		t.Errorf("got %d rows, want 1 to 3000 in order", len(got))
	}
	checkConfirmed(t, db, cfg.Slot, r.stop())
	if !strings.Contains(log.String(), "cannot pull the backlog") || !strings.Contains(log.String(), "temp_file_limit") {
		t.Errorf("log:\n%s", log)
	}
}

// A stop before the first chunk leaves no file open.
func TestStopBeforePull(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, _ := outbox(t, db)
	cfg.SpillDir = t.TempDir()
	st, err := open(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := st.(*Stream)
	if err := s.interrupt(); err != nil {
		t.Fatal(err)
	}
	if err := s.pull(t.Context(), &run{}); !errors.Is(err, errStopped) {
		t.Errorf("pull() = %v, want %v", err, errStopped)
	}
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(files) == 0 {
		t.Skipf("open files cannot be listed: %v", err)
	}
	for _, file := range files {
		if name, err := os.Readlink(file); err == nil && strings.HasPrefix(name, cfg.SpillDir) {
			t.Errorf("%s is open", name)
		}
	}
}
