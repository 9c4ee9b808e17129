package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// A database as an earlier version has left it: the new one streams, says once what it cannot
// do, and can after walpost init, which leaves the position as it is and does not disturb a
// process that runs.
func TestUpgradeInPlace(t *testing.T) {
	const n = 100
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("run")
	s.fill(harness.OneRow, 1, n)
	at := s.checkpoint()
	s.stop(p)
	s.exec("DROP TABLE walpost.checkpoint_log, walpost.replay; COMMENT ON TABLE walpost.checkpoint IS NULL")

	p = s.start("run")
	s.fill(harness.OneRow, n+1, 2*n)
	s.caughtUp(30 * time.Second)
	const earlier, lacking = "the database is of an earlier version", "there is no table walpost.checkpoint_log"
	harness.Eventually(t, 20*time.Second, "warnings", func() bool { return strings.Contains(p.Log(), lacking) })
	s.refused("checkpoint_log", "run walpost init", "purge", "--older-than", "1h")

	log := s.asAdmin("init", "--no-table", "--role", s.slot)
	for _, want := range []string{"updated  table walpost.checkpoint\n", "created  table walpost.checkpoint_log", "created  table walpost.replay"} {
		if !strings.Contains(log, want) {
			t.Errorf("init lacks %q:\n%s", want, log)
		}
	}
	s.fill(harness.OneRow, 2*n+1, 3*n) // which init has not disturbed
	s.caughtUp(30 * time.Second)
	s.stop(p)
	if strings.Count(p.Log(), earlier) != 1 || strings.Count(p.Log(), "run walpost init") != 2 {
		t.Errorf("want one warning of the version and one of the table:\n%s", p.Log())
	}
	if s.number("SELECT count(*) FROM walpost.checkpoint WHERE slot = $1 AND lsn >= $2::text::pg_lsn", s.slot, at) != 1 {
		t.Error("the position is gone")
	}
	p = s.start("run")
	s.fill(harness.OneRow, 3*n+1, 4*n)
	s.caughtUp(30 * time.Second)
	harness.Eventually(t, 20*time.Second, "an entry of the log", func() bool {
		return s.number("SELECT count(*) FROM walpost.checkpoint_log WHERE slot = $1", s.slot) > 0
	})
	s.stop(p)
	if strings.Contains(p.Log(), earlier) {
		t.Errorf("a warning after init:\n%s", p.Log())
	}
	if r := s.check(); r.Duplicated > 0 {
		t.Errorf("%d duplicates", r.Duplicated)
	}
}

// asAdmin runs a command as the role that owns the database.
func (s *stage) asAdmin(args ...string) string {
	s.t.Helper()
	return s.walpost(append(args, "--dsn", s.db.DSN)...)
}
