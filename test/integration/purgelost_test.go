package integration

import (
	"strings"
	"testing"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// publish lets the slot leave behind all that is committed, without a service.
func (s *stage) publish() {
	s.t.Helper()
	s.flush()
	s.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_flush_lsn())", s.slot)
}

// lose writes WAL until the server has given up a bookmark, which the live slot keeps out of.
func (s *stage) lose(name string) {
	s.t.Helper()
	for range 20 {
		s.db.Exec(s.t, "CREATE TABLE IF NOT EXISTS junk (t text); INSERT INTO junk SELECT repeat('x', 1000) FROM generate_series(1, 20000); SELECT pg_switch_wal()")
		s.publish()
		s.exec("CHECKPOINT")
		if s.number("SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND wal_status = 'lost'", s.slot+"_bm_"+name) > 0 {
			return
		}
	}
	s.t.Fatalf("bookmark %s is not lost", name)
}

// A bookmark whose WAL the server has removed keeps its rows until it is dropped, since they are
// nowhere else. The service's own window does not.
func TestPurgeLostBookmark(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"max_slot_wal_keep_size": "32MB", "min_wal_size": "32MB", "max_wal_size": "64MB"}})
	s := newStage(t, envtest.NewDatabaseOn(t, pg), envtest.Kafka(t).Addrs())
	s.exec("GRANT SELECT, DELETE ON outbox TO " + s.slot)
	s.fill(harness.OneRow, 1, 10)
	s.publish()
	s.purge("--older-than", "0", "--dry-run") // notes this moment
	s.fill(harness.OneRow, 11, 11)
	s.publish()
	s.walpost("bookmark", "create", "keep")
	s.exec("SELECT pg_copy_logical_replication_slot($1, $2)", s.slot, s.slot+"_bm_window")
	s.fill(harness.OneRow, 12, 20)
	s.lose("keep")
	s.lose("window")

	s.refused(`bookmark "keep" of slot "`+s.slot+`" stands at`, "walpost bookmark drop keep", "purge", "--older-than", "0")
	s.exec("UPDATE walpost.checkpoint_log SET at = at - interval '2 hours'")
	if r := s.purge("--older-than", "1h"); r.Deleted != 10 || !strings.Contains(r.HeldBy, "until walpost bookmark drop keep") {
		t.Errorf("got %+v, want 10 rows deleted, and the others held by the bookmark", r)
	}
	if got := s.number("SELECT count(*) FROM outbox"); got != 10 {
		t.Errorf("%d rows are left, want 10", got)
	}
	s.walpost("bookmark", "drop", "keep")
	if r := s.purge("--older-than", "0"); r.Deleted != 10 {
		t.Errorf("got %+v, want the 10 others deleted, whatever became of the window", r)
	}
}
