package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// A start from a saved position publishes again what a bookmark keeps from there on, and then
// streams; what nothing keeps is refused, and so is a position that would skip events.
func TestRunFromLSN(t *testing.T) {
	const n = 200
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.refusedFrom("0/100", "does not exist", "walpost init", "--postgres.slot="+s.slot+"_none")
	p := s.start("run")
	s.fill(harness.OneRow, 1, n)
	before := s.checkpoint()
	s.walpost("bookmark", "create", "kept")
	s.fill(harness.OneRow, n+1, 2*n)
	s.checkpoint()
	s.stop(p)

	s.refusedFrom("0/100", "the oldest position that can be published again is", "--source table")
	s.refusedFrom("FFFF/0", "beyond the end of WAL", "up to there")
	s.fill(harness.OneRow, 2*n+1, 3*n) // while nothing runs
	var end string
	if err := s.conn.QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	s.refusedFrom(end, "would never be published", "--force")

	p = s.start("run", "--from-lsn", before)
	s.isReady(30 * time.Second)
	s.caughtUp(time.Minute)
	s.stop(p)
	again, once := 0, 0
	for id, all := range s.sightings() {
		switch {
		case len(all) == 2 && all[0].replay == "" && all[1].replay != "" && all[0].text == all[1].text:
			again++
		case len(all) == 1 && all[0].replay == "":
			once++
		default:
			t.Errorf("event %s: %+v", id, all)
		}
	}
	fmt.Printf("FIGURES run --from-lsn: %d of %d events published again as they were, %d once\n", again, n, once)
	if again != n || once != 2*n {
		t.Errorf("%d published again and %d once, want %d and %d", again, once, n, 2*n)
	}
}

// refusedFrom wants a start from a position to be refused.
func (s *stage) refusedFrom(lsn, message, hint string, args ...string) {
	s.t.Helper()
	s.refused(message, hint, append([]string{"run", "--from-lsn", lsn}, args...)...)
}
