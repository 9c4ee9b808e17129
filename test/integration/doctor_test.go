package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

type verdict struct{ Check, Verdict, Text, Mend string }

// doctor returns the checks that are not ok.
func (s *stage) doctor(args ...string) (bad []verdict, code int) {
	s.t.Helper()
	p := s.start(append([]string{"doctor", "-o", "json"}, args...)...)
	code = s.wait(p, time.Minute)
	text := p.Log()
	if i := strings.LastIndex(text, "\nwalpost: "); i >= 0 {
		text = text[:i]
	}
	var all []verdict
	s.decode(text, &all)
	if len(all) < 10 {
		s.t.Errorf("%d checks only:\n%s", len(all), p.Log())
	}
	for _, v := range all {
		if v.Verdict != "ok" {
			bad = append(bad, v)
		}
		if (v.Verdict == "ok") != (v.Mend == "") {
			s.t.Errorf("%+v: a mend is for what is wrong", v)
		}
	}
	return bad, code
}

// fault is something that doctor is to find.
type fault struct {
	name, check, verdict, text string
	broken, mended             string
	args                       []string
	topic                      map[string]*string // settings of the topic
}

// faults are all that are made. The role is the one that walpost runs as.
func faults(role string) []fault {
	return []fault{
		{name: "no instance", check: "instance", verdict: "warn", text: "not reached"},
		{name: "nobody streams", check: "slot", verdict: "warn", text: "nobody streams"},
		{name: "no publication", check: "server and publication", verdict: "fail", text: "does not exist", args: []string{"--publication", "none"}},
		{name: "table not published", check: "server and publication", verdict: "fail", text: "outbox", broken: "ALTER PUBLICATION walpost DROP TABLE outbox", mended: "ALTER PUBLICATION walpost ADD TABLE outbox"},
		{name: "no slot", check: "slot", verdict: "fail", text: "does not exist", args: []string{"--slot", "none"}},
		{name: "no right", check: "role", verdict: "fail", text: "may not read", broken: "ALTER ROLE " + role + " NOREPLICATION", mended: "ALTER ROLE " + role + " REPLICATION"},
		{name: "synchronous_commit", check: "commit", verdict: "warn", text: "200 ms", broken: "ALTER ROLE " + role + " SET synchronous_commit = off", mended: "ALTER ROLE " + role + " RESET synchronous_commit"},
		{name: "another cluster", check: "checkpoint", verdict: "fail", text: "another cluster", broken: "UPDATE walpost.checkpoint SET system_id = system_id + 1", mended: "UPDATE walpost.checkpoint SET system_id = system_id - 1"},
		{name: "beyond the end", check: "checkpoint", verdict: "fail", text: "beyond the end of WAL", broken: "UPDATE walpost.checkpoint SET lsn = 'FFFF/0'", mended: "UPDATE walpost.checkpoint SET lsn = (SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = slot)"},
		{name: "slot advanced", check: "checkpoint", verdict: "fail", text: "beyond the saved position", broken: "UPDATE walpost.checkpoint SET lsn = '0/200000'", mended: "UPDATE walpost.checkpoint SET lsn = (SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = slot)"},
		{name: "tables of an earlier version", check: "tables of walpost", verdict: "warn", text: "walpost.replay", broken: "ALTER TABLE walpost.replay RENAME TO replay_away", mended: "ALTER TABLE walpost.replay_away RENAME TO replay"},
		{
			name: "version not noted", check: "tables of walpost", verdict: "warn", text: "version 0, and this walpost makes version",
			broken: "COMMENT ON TABLE walpost.checkpoint IS NULL", mended: "COMMENT ON TABLE walpost.checkpoint IS 'tables of version 1'",
		},
		{name: "no broker", check: "brokers", verdict: "fail", text: "no broker answers", args: []string{"--brokers", "127.0.0.1:1"}},
		{name: "no topic", check: "topics", verdict: "warn", text: "there is none", args: []string{"--outbox.topic", "none.${routedByValue}"}},
		{name: "too few replicas", check: "topic settings", verdict: "fail", text: "nothing can be written", topic: map[string]*string{"min.insync.replicas": new("2")}},
		{name: "compacted", check: "topic settings", verdict: "warn", text: "compacted", topic: map[string]*string{"cleanup.policy": new("compact")}},
		{name: "batches too large", check: "topic settings", verdict: "fail", text: "larger ones would be refused", args: []string{"--kafka.max_message_bytes", "2MiB"}, topic: map[string]*string{"max.message.bytes": new("1048588")}},
		{name: "more replicas than brokers", check: "broker limits", verdict: "fail", text: "no topic can be created", args: []string{"--kafka.create_topics", "--kafka.replication_factor", "3", "--outbox.topic", "none"}},
		{name: "no progress topic", check: "copies of the disk", verdict: "warn", text: "would not be noticed", args: []string{"--checkpoint.topic", "none.progress"}},
		{name: "no spill folder", check: "spill folder", verdict: "fail", text: "no such file", args: []string{"--delivery.spill_dir", "/proc/self/task"}},
	}
}

// Each thing is made wrong in turn, is found with what mends it, and is mended.
func TestDoctor(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.set("CHECKPOINT_TOPIC=" + progressTopic(t, s.brokers))
	p := s.start("run")
	s.isReady(30 * time.Second)
	expected := map[string]bool{"WAL head-room": true, "replicas": true, "free slots": true} // of the test's servers
	usual := func(bad []verdict) (rest []verdict) {
		for _, v := range bad {
			if !expected[v.Check] || v.Verdict == "fail" {
				rest = append(rest, v)
			}
		}
		return rest
	}
	if bad, code := s.doctor(); len(usual(bad)) > 0 || code != 0 {
		t.Fatalf("exit %d, %+v\n%s", code, usual(bad), s.start("doctor").Log())
	}
	s.stop(p)
	for _, c := range faults(s.slot) {
		t.Run(c.name, func(t *testing.T) {
			args := c.args
			if c.topic != nil {
				args = append(args, "--outbox.topic", envtest.CreateTopic(t, s.brokers, 1, c.topic))
			}
			if c.broken != "" {
				s.exec(c.broken)
			}
			bad, code := s.doctor(args...)
			if c.mended != "" {
				s.exec(c.mended)
			}
			found := ""
			for _, v := range bad {
				if v.Check == c.check && v.Verdict == c.verdict && (strings.Contains(v.Text, c.text) || c.text == "no such file") {
					found = v.Mend
				}
			}
			if found == "" || (code == 0) != (c.verdict != "fail") {
				t.Errorf("exit %d, want %s of %s with %q: %+v", code, c.verdict, c.check, c.text, bad)
			}
		})
	}
	t.Run("bookmark older than retention", func(t *testing.T) {
		s.walpost("bookmark", "create", "old")
		s.exec("UPDATE walpost.checkpoint_log SET at = at - interval '2 hours'")
		topic := envtest.CreateTopic(t, s.brokers, 1, map[string]*string{"retention.ms": new("3600000")})
		bad, _ := s.doctor("--outbox.topic", topic)
		s.walpost("bookmark", "drop", "old")
		if text := fmt.Sprintf("%+v", bad); !strings.Contains(text, "--timestamp now") {
			t.Error(text)
		}
	})
	p = s.start("run")
	s.isReady(30 * time.Second)
	harness.Eventually(t, 10*time.Second, "all mended", func() bool { bad, code := s.doctor(); return len(usual(bad)) == 0 && code == 0 })
	s.stop(p)
}
