package integration

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// A position is set by hand only where nothing is skipped by it, unless that is meant; after a
// change of the cluster the stream goes on from it with nothing lost.
func TestCheckpointSet(t *testing.T) {
	const n = 100
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("run")
	s.fill(harness.OneRow, 1, n)
	at := s.checkpoint()
	s.refused("is being read", "stop walpost run", "checkpoint", "set", at)
	s.stop(p)
	at, _, _ = strings.Cut(s.walpost("checkpoint", "show"), "\n")
	s.fill(harness.OneRow, n+1, 2*n)
	var end string
	if err := s.conn.QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	s.refused("would never be published", "--force", "checkpoint", "set", end)
	s.refused("beyond the end of WAL", "up to there", "checkpoint", "set", "FFFF/0", "--force")
	s.refused("beyond 0/100", "walpost replay", "checkpoint", "set", "0/100", "--force")

	// As after a major upgrade: the saved position is another cluster's.
	s.exec("UPDATE walpost.checkpoint SET system_id = system_id + 1")
	p = s.start("run")
	if code := s.wait(p, 30*time.Second); code != 1 || !strings.Contains(p.Log(), "another cluster") {
		t.Fatalf("exit %d\n%s", code, p.Log())
	}
	s.walpost("checkpoint", "set", at)
	p = s.start("run")
	s.arrived(2*n, 30*time.Second)
	s.caughtUp(30 * time.Second)
	s.check()
	s.stop(p)

	s.fill(harness.OneRow, 2*n+1, 3*n)
	if err := s.conn.QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	s.walpost("checkpoint", "set", end, "--force")
	if left := s.number("SELECT count(*) FROM walpost.checkpoint_log WHERE slot = $1", s.slot); left > 0 {
		t.Errorf("%d entries of the log are left, by which a purge would take skipped rows for published", left)
	}
	p = s.start("run")
	s.isReady(30 * time.Second)
	s.fill(harness.OneRow, 3*n+1, 4*n)
	s.caughtUp(30 * time.Second)
	if got, err := harness.Count(t.Context(), s.brokers, s.topic); err != nil || got != 3*n {
		t.Errorf("%d records, want %d: what was skipped by force is not published: %v", got, 3*n, err)
	}
	s.stop(p)

	s.restored(n)
}

// restored is as after a restore from a disk's snapshot, with 4n events written of which 3n are
// published: the saved position is beyond the end of WAL.
func (s *stage) restored(n int64) {
	s.t.Helper()
	var at string
	if err := s.conn.QueryRow(s.t.Context(), "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", s.slot).Scan(&at); err != nil {
		s.t.Fatal(err)
	}
	s.exec("UPDATE walpost.checkpoint SET lsn = 'FFFF/0'")
	s.refused("beyond the end of WAL", "walpost checkpoint set LSN --force", "run")
	s.refused("has lost WAL", "--force", "checkpoint", "set", at)
	s.walpost("checkpoint", "set", at, "--force")
	p := s.start("run")
	s.fill(harness.OneRow, 4*n+1, 5*n)
	s.caughtUp(30 * time.Second)
	if got, err := harness.Count(s.t.Context(), s.brokers, s.topic); err != nil || got != 4*n {
		s.t.Errorf("%d records, want %d: %v", got, 4*n, err)
	}
	s.stop(p)
}

// What the runbook says of a lost slot: the stream begins anew, and the rows of the gap are
// published from the table.
func TestLostSlot(t *testing.T) {
	const n = 100
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.exec("ALTER TABLE outbox ADD COLUMN created_at timestamptz NOT NULL DEFAULT clock_timestamp()")
	s.exec("GRANT SELECT ON outbox TO " + s.slot)
	fill := func(first, last int64) {
		s.exec(fmt.Sprintf(`INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq)
			SELECT gen_random_uuid(), 'order', 'order-' || n %% 50, 'created', jsonb_build_object('n', n), n FROM generate_series(%d, %d) n`, first, last))
	}
	p := s.start("run")
	fill(1, n)
	s.checkpoint()
	s.stop(p)
	saved := time.Now()
	fill(n+1, 2*n) // the gap
	s.exec("SELECT pg_drop_replication_slot('" + s.slot + "')")
	s.refused("does not exist, but its checkpoint stands at", "walpost checkpoint set LSN --force", "run")
	s.walpost("init", "--no-table")
	var at string
	if err := s.conn.QueryRow(t.Context(), "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", s.slot).Scan(&at); err != nil {
		t.Fatal(err)
	}
	s.walpost("checkpoint", "set", at, "--force")
	p = s.start("run")
	harness.Eventually(t, 30*time.Second, "an entry of the log", func() bool {
		return s.number("SELECT count(*) FROM walpost.checkpoint_log WHERE slot = $1", s.slot) > 0
	})
	until := time.Now()
	fill(2*n+1, 3*n)
	s.checkpoint()
	if r := s.replay("--source", "table", "--from", saved.UTC().Format(time.RFC3339Nano), "--to", until.UTC().Format(time.RFC3339Nano)); r.Published != n {
		t.Errorf("got %+v, want the %d events of the gap", r, n)
	}
	if seen := s.sightings(); len(seen) != 3*n {
		t.Errorf("%d events are published, want all %d", len(seen), 3*n)
	}
	s.stop(p)
}

// A bundle has what who helps needs, and no secret.
func TestBundle(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	const secret = "hunter2hunter2"
	s.db.Exec(t, "ALTER ROLE "+s.slot+" PASSWORD '"+secret+"'")
	s.set("POSTGRES_DSN=" + s.dsnWith(t, s.slot, secret))
	p := s.start("run")
	s.isReady(30 * time.Second)
	s.fill(harness.OneRow, 1, 10)
	s.caughtUp(30 * time.Second)
	path := filepath.Join(t.TempDir(), "help.tar.gz")
	s.walpost("doctor", "--bundle", path)
	s.refused("exists", "does not exist yet", "doctor", "--bundle", path)
	files := unpack(t, path)
	for name, want := range map[string]string{
		"help/doctor.json": `"check": "slot"`, "help/config.yaml": "slot: " + s.slot, "help/status.json": `"retained_bytes"`, "help/postgres.json": `"wal_level": "logical"`,
		"help/version.json": `"go`, "help/instance/status.json": `"state": "streaming"`, "help/instance/readyz.txt": "streaming", "help/instance/metrics.txt": "walpost_lag_seconds 0",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s lacks %q: %.300s", name, want, files[name])
		}
	}
	for name, text := range files {
		if strings.Contains(text, secret) || strings.Contains(text, "päyload") {
			t.Errorf("%s has a secret or an event in it", name)
		}
	}
	s.stop(p)
}

func unpack(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zipped); ; {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[head.Name] = string(data)
	}
}
