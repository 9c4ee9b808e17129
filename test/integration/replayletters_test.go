package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// logged waits until the log covers all rows of the table, so that a replay from it takes
// all that are published.
func (s *stage) logged() {
	s.t.Helper()
	const query = `SELECT count(*) FROM walpost.checkpoint_log l JOIN pg_replication_slots r ON r.slot_name = slot
		WHERE slot = $1 AND oldest_xid > (SELECT max(xmin::text::bigint) FROM outbox)::text::xid8 AND end_lsn <= confirmed_flush_lsn`
	harness.Eventually(s.t, time.Minute, "an entry of the log that covers all rows", func() bool { return s.number(query, s.slot) > 0 })
}

// Events that wait in the dead-letter topic are the stream's to publish: a replay passes over
// them and says so, from WAL and from the table, until they are retried.
func TestReplayPassesOverDeadLetters(t *testing.T) {
	g := newGraveyard(t)
	g.exec("ALTER TABLE outbox ADD COLUMN created_at timestamptz NOT NULL DEFAULT clock_timestamp()")
	g.exec("GRANT SELECT ON outbox TO " + g.slot)
	g.walpost("bookmark", "create", "start")
	p := g.start("run")
	for _, key := range []string{"a", "b"} {
		g.write(key, key+"1", 10)
		g.write(key, key+"2", map[string]int{"a": tooLarge, "b": 10}[key])
		g.write(key, key+"3", 10)
	}
	g.checkpoint()
	g.stop(p) // what is idle is confirmed too, and nobody retries
	p = g.start("run")
	g.logged()
	g.raiseLimit()
	wal, table := []string{"--from", "start"}, []string{"--source", "table"}
	for name, args := range map[string][]string{"wal": wal, "table": table} {
		t.Run(name, func(t *testing.T) {
			dry, r := g.replay(append(args, "--dry-run")...), g.replay(args...)
			if dry.Published != 4 || dry.Waiting != 2 || r.Published != 4 || r.Waiting != 2 || !r.Finished {
				t.Errorf("got %+v, and dry %+v, want 4 published and 2 dead or parked", r, dry)
			}
			if text := g.walpost(append(append([]string{"replay"}, args...), "--dry-run", "--key", "a")...); !strings.Contains(text, "1 events would be published again") ||
				!strings.Contains(text, "2 events are dead or parked") {
				t.Errorf("got\n%s", text)
			}
		})
	}
	if log := g.walpost("dlq", "retry", "--key", "a"); !strings.Contains(log, "published 2") {
		t.Errorf("retry: %s", log)
	}
	g.want("a", "a1", "a2", "a3")
	for name, args := range map[string][]string{"wal": wal, "table": table} {
		if r := g.replay(args...); r.Published != 6 || r.Waiting != 0 {
			t.Errorf("%s: got %+v after the retry, want 6 events", name, r)
		}
	}
	g.stop(p)
	g.walpost("bookmark", "drop", "start")
}
