package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// A database as an earlier version has left it: the new one streams, says once what it cannot
// do, and can after walpost init, which leaves the position as it is.
func TestUpgradeInPlace(t *testing.T) {
	const n = 100
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("run")
	s.fill(harness.OneRow, 1, n)
	at := s.checkpoint()
	s.stop(p)
	s.exec("DROP TABLE walpost.checkpoint_log, walpost.replay")

	p = s.start("run")
	s.fill(harness.OneRow, n+1, 2*n)
	s.caughtUp(30 * time.Second)
	harness.Eventually(t, 20*time.Second, "warning", func() bool { return strings.Contains(p.Log(), "walpost init") })
	s.stop(p)
	if got := strings.Count(p.Log(), "walpost init"); got != 1 {
		t.Errorf("%d warnings, want 1:\n%s", got, p.Log())
	}
	s.refused("checkpoint_log", "run walpost init", "purge", "--older-than", "1h")

	log := s.asAdmin("init", "--no-table", "--role", s.slot)
	for _, want := range []string{"exists   table walpost.checkpoint\n", "created  table walpost.checkpoint_log", "created  table walpost.replay"} {
		if !strings.Contains(log, want) {
			t.Errorf("init lacks %q:\n%s", want, log)
		}
	}
	if s.number("SELECT count(*) FROM walpost.checkpoint WHERE slot = $1 AND lsn >= $2::text::pg_lsn", s.slot, at) != 1 {
		t.Error("the position is gone")
	}
	p = s.start("run")
	s.fill(harness.OneRow, 2*n+1, 3*n)
	s.caughtUp(30 * time.Second)
	harness.Eventually(t, 20*time.Second, "an entry of the log", func() bool {
		return s.number("SELECT count(*) FROM walpost.checkpoint_log WHERE slot = $1", s.slot) > 0
	})
	s.stop(p)
	if r := s.check(); r.Duplicated > 0 {
		t.Errorf("%d duplicates", r.Duplicated)
	}
}

// asAdmin runs a command as the role that owns the database.
func (s *stage) asAdmin(args ...string) string {
	s.t.Helper()
	return s.walpost(append(args, "--dsn", s.db.DSN)...)
}
