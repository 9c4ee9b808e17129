package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// purged is what a test reads of walpost purge.
type purged struct {
	Deleted, Archived int64
	HeldBy            string `json:"held_by"`
	Tables            []struct{ Rows, Kept int64 }
}

func (s *stage) purge(args ...string) (r purged) {
	s.t.Helper()
	s.decode(s.walpost(append([]string{"purge", "-o", "json"}, args...)...), &r)
	return r
}

// A purge takes what is published and nothing else, whatever is written meanwhile; a slot or
// a bookmark that stands before a row keeps it.
func TestPurge(t *testing.T) {
	const n = 5000
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("run", "--postgres.status_interval", "500ms")
	s.fill(harness.Rows, 1, n)
	s.checkpoint()
	s.refused("GRANT SELECT, DELETE", "GRANT SELECT, DELETE", "purge", "--older-than", "0", "--log.level", "error")
	s.exec("GRANT SELECT, DELETE ON outbox TO " + s.slot)
	s.refused("does not go back", "wait", "purge", "--older-than", "1h")

	if r := s.purge("--older-than", "0", "--dry-run"); len(r.Tables) != 1 || r.Tables[0].Rows != n || s.number("SELECT count(*) FROM outbox") != n {
		t.Errorf("dry run: got %+v", r)
	}
	dir := t.TempDir()
	// A row of a transaction that began before the purge, and commits after it, stays.
	other := s.db.Connect(t)
	tx, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO outbox SELECT * FROM event(0)"); err != nil {
		t.Fatal(err)
	}
	if r := s.purge("--older-than", "0", "--purge.archive", "ndjson", "--purge.archive_dir", dir); r.Deleted != n || r.Archived != n {
		t.Errorf("got %+v, want %d deleted and archived", r, n)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.number("SELECT count(*) FROM outbox"); got != 1 {
		t.Errorf("%d rows are left, want 1", got)
	}
	if got := archived(t, dir); got != n {
		t.Errorf("%d lines are archived, want %d", got, n)
	}

	s.checkpoint()
	s.walpost("bookmark", "create", "keep")
	s.fill(harness.OneRow, n+1, n+100)
	s.checkpoint()
	s.refused(`bookmark "keep" stands at`, "drop the bookmark", "purge", "--older-than", "0")
	s.walpost("bookmark", "drop", "keep")
	s.stop(p)
	s.fill(harness.OneRow, n+101, n+200)
	s.refused("stands at", "let it catch up", "purge", "--older-than", "0")
	if got := s.number("SELECT count(*) FROM outbox"); got != 201 {
		t.Errorf("%d rows are left, want 201", got)
	}
	p = s.start("run", "--postgres.status_interval", "500ms")
	s.checkpoint()
	if r := s.purge("--older-than", "0", "--purge.archive", "parquet", "--purge.archive_dir", dir); r.Deleted != 201 || r.Archived != 201 {
		t.Errorf("got %+v, want 201 deleted and archived", r)
	}
	if got := archivedParquet(t, dir); got != 201 {
		t.Errorf("%d rows are in Parquet files, want 201", got)
	}
	if got := archived(t, dir); got != n {
		t.Errorf("%d lines are left beside Parquet, want the %d of before", got, n)
	}
	s.stop(p)
}

func archived(t *testing.T, dir string) (lines int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		lines += strings.Count(string(data), "\n")
		if !strings.HasPrefix(string(data), `{"id": "`) {
			t.Errorf("%s begins with %.40q", f, data)
		}
	}
	return lines
}

func archivedParquet(t *testing.T, dir string) (rows int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.parquet"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		got, err := parquet.ReadFile[struct {
			ID            string `parquet:"id"`
			AggregateType string `parquet:"aggregatetype"`
		}](f)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range got {
			if len(r.ID) != 36 || r.AggregateType == "" {
				t.Errorf("%s has %+v", f, r)
			}
		}
		rows += len(got)
	}
	return rows
}

// The service purges by itself what the log says is old enough. The log is made older for
// that.
func TestPurgeByService(t *testing.T) {
	const n = 1000
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.exec("GRANT SELECT, DELETE ON outbox TO " + s.slot)
	p := s.start("run", "--postgres.status_interval", "500ms")
	s.fill(harness.Rows, 1, n)
	s.checkpoint()
	harness.Eventually(t, 40*time.Second, "an entry of the log that covers all", func() bool {
		return s.number("SELECT count(*) FROM walpost.checkpoint_log WHERE slot = $1 AND oldest_xid > (SELECT max(xmin::text::bigint) FROM outbox)::text::xid8", s.slot) > 0
	})
	s.stop(p)
	s.exec("UPDATE walpost.checkpoint_log SET at = at - interval '2 hours'")
	s.fill(harness.OneRow, n+1, n+10)
	p = s.start("run", "--purge.older_than", "48h")
	harness.Eventually(t, 30*time.Second, "that the log does not go back that far", func() bool { return strings.Contains(p.Log(), "nothing to purge yet") })
	if strings.Contains(p.Log(), "upkeep failed") {
		t.Errorf("a young service says that upkeep fails:\n%s", p.Log())
	}
	s.stop(p)
	p = s.start("run", "--purge.older_than", "1h")
	harness.Eventually(t, 30*time.Second, "old rows gone", func() bool { return s.number("SELECT count(*) FROM outbox") == 10 })
	s.stop(p)
}
