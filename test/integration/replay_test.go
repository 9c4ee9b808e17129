package integration

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// replayed is what a test reads of walpost replay.
type replayed struct {
	Replay    string
	Published int64
	Passed    int64 `json:"passed_over"`
	Waiting   int64 `json:"dead_or_parked"`
	Poison    int64 `json:"cannot_be_routed"`
	Finished  bool
}

func (s *stage) replay(args ...string) (r replayed) {
	s.t.Helper()
	s.decode(s.walpost(append([]string{"replay", "-o", "json"}, args...)...), &r)
	return r
}

// decode reads the JSON behind what was said on the way.
func (s *stage) decode(text string, v any) {
	s.t.Helper()
	i := strings.Index(text, "{\n")
	if j := strings.Index(text, "[\n"); j >= 0 && (i < 0 || j < i) {
		i = j
	}
	if err := json.Unmarshal([]byte(text[max(0, i):]), v); err != nil {
		s.t.Fatalf("%v in %s", err, text)
	}
}

// refused runs a command that must fail with a message and a hint.
func (s *stage) refused(message, hint string, args ...string) {
	s.t.Helper()
	p := s.start(args...)
	code := s.wait(p, time.Minute)
	if log := p.Log(); code != 1 || !strings.Contains(log, message) || !strings.Contains(log, "walpost: hint: ") || !strings.Contains(log, hint) {
		s.t.Errorf("walpost %s: exit %d, want 1 with %q and the hint %q:\n%s", strings.Join(args, " "), code, message, hint, log)
	}
}

// checkpoint waits until all is confirmed to the slot, and returns the position that walpost
// prints.
func (s *stage) checkpoint() string {
	s.t.Helper()
	s.caughtUp(time.Minute)
	// An idle position is not saved at once, so that only a time without a save tells: saves
	// are a second apart.
	const query = `SELECT count(*) FROM pg_replication_slots r JOIN walpost.checkpoint c ON c.slot = slot_name
		WHERE slot_name = $1 AND c.lsn = r.confirmed_flush_lsn AND c.saved_at < clock_timestamp() - interval '2 seconds'`
	looks := 0
	harness.EventuallyEvery(s.t, 200*time.Millisecond, 20*time.Second, "checkpoint saved and confirmed", func() bool {
		if looks++; s.number(query, s.slot) == 0 {
			looks = 0
		}
		return looks > 7
	})
	line, _, _ := strings.Cut(s.walpost("checkpoint", "show"), "\n")
	return line
}

// sighting is a record without what a replay may change.
type sighting struct {
	text   string // partition, timestamp, key, value and headers
	replay string // the id of the replay, or empty
}

// sightings are all records of the topic, by their ids in the order in which they came.
func (s *stage) sightings() map[string][]sighting {
	s.t.Helper()
	all := map[string][]sighting{}
	err := harness.Consume(s.t.Context(), s.brokers, []string{s.topic}, func(r *kgo.Record, _ int32) {
		var id string
		seen := sighting{text: fmt.Sprintf("%d %d %s %s", r.Partition, r.Timestamp.UnixMilli(), r.Key, r.Value)}
		for _, h := range r.Headers {
			switch h.Key {
			case "walpost-replay":
				seen.replay = string(h.Value)
				continue
			case "id":
				id = string(h.Value)
			}
			seen.text += fmt.Sprintf(" %s=%s", h.Key, h.Value)
		}
		all[id] = append(all[id], seen)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// wantReplayed wants those events of the table for which a condition holds once more, as they
// were, and no others.
func (s *stage) wantReplayed(id, condition string) {
	s.t.Helper()
	rows, err := s.conn.Query(s.t.Context(), "SELECT id::text, "+condition+" FROM outbox")
	if err != nil {
		s.t.Fatal(err)
	}
	want := map[string]bool{}
	for rows.Next() {
		var event string
		var wanted bool
		if err := rows.Scan(&event, &wanted); err != nil {
			s.t.Fatal(err)
		}
		want[event] = wanted
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	seen := s.sightings()
	lost, extra, changed := 0, 0, 0
	for event, wanted := range want {
		n := 0
		for _, x := range seen[event] {
			if x.replay == id {
				n++
			}
			if x.text != seen[event][0].text {
				changed++
			}
		}
		switch {
		case wanted && n == 0:
			lost++
		case wanted && n > 1, !wanted && n > 0:
			extra += n
		}
	}
	if lost+extra+changed > 0 {
		s.t.Errorf("replay of events %s: %d lost, %d too many, %d changed", condition, lost, extra, changed)
	}
}

// order checks that what a replay has published comes in the table's order for each key.
func (s *stage) order(id string) {
	s.t.Helper()
	last := map[string]int64{}
	wrong := 0
	err := harness.Consume(s.t.Context(), s.brokers, []string{s.topic}, func(r *kgo.Record, _ int32) {
		if !slices.ContainsFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == "walpost-replay" && string(h.Value) == id }) {
			return
		}
		var payload struct{ N int64 }
		if err := json.Unmarshal(r.Value, &payload); err != nil || payload.N <= last[string(r.Key)] {
			wrong++
		}
		last[string(r.Key)] = payload.N
	})
	if err != nil || wrong > 0 {
		s.t.Errorf("%d events of replay %s out of order: %v", wrong, id, err)
	}
}

// The middle third of what was published is published again by position, by time, by
// bookmark and by key, as it was, while the stream goes on; what cannot be, is refused with
// what is there.
func TestReplay(t *testing.T) {
	const n = 3000
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("run", "--outbox.position_headers")
	s.isReady(30 * time.Second)
	s.fill(harness.OneRow, 1, 10) // before all bookmarks
	before := s.checkpoint()
	s.refused("nothing keeps the WAL", "walpost bookmark create", "replay", "--from", before)
	s.walpost("bookmark", "create", "start")

	s.fill(harness.OneRow, 11, n)
	from, since := s.checkpoint(), time.Now()
	s.walpost("bookmark", "create", "middle")
	s.fill(harness.Rows, n+1, 2*n)
	to, until := s.checkpoint(), time.Now()
	s.fill(harness.OneTx, 2*n+1, 3*n)
	s.checkpoint()

	middle := fmt.Sprintf("seq BETWEEN %d AND %d", n+1, 2*n)
	for name, args := range map[string][]string{
		"position": {"--from", from, "--to", to},
		"time":     {"--from", since.UTC().Format(time.RFC3339Nano), "--to", until.UTC().Format(time.RFC3339Nano)},
		"bookmark": {"--from", "middle", "--to", to},
	} {
		t.Run(name, func(t *testing.T) {
			if dry := s.replay(append(args, "--dry-run", "--outbox.position_headers")...); dry.Published != n {
				t.Errorf("a dry run counts %d events, want %d", dry.Published, n)
			}
			r := s.replay(append(args, "--outbox.position_headers")...)
			if r.Published != n || !r.Finished {
				t.Errorf("got %+v, want %d events", r, n)
			}
			s.wantReplayed(r.Replay, middle)
			s.order(r.Replay)
		})
	}
	t.Run("key", func(t *testing.T) {
		r := s.replay("--from", "start", "--key", "order-7", "--type", "created", "--outbox.position_headers")
		s.wantReplayed(r.Replay, "seq > 10 AND aggregateid = 'order-7'")
	})
	t.Run("another topic", func(t *testing.T) {
		into := envtest.CreateTopic(t, s.brokers, 1, nil)
		r := s.replay("--from", from, "--to", to, "--into", into, "--timestamp", "now", "--rate", "5000")
		if got, err := harness.Count(t.Context(), s.brokers, into); err != nil || got != n || r.Published != n {
			t.Errorf("%d records, want %d: %v", got, n, err)
		}
	})
	s.refused("the oldest position that can be published again is", "replay.window", "replay", "--from", "0/100")
	s.refused("has not been published", "leave --to out", "replay", "--from", "start", "--to", "FFFF/0")
	s.refused("no LSN, no time and no bookmark", "give an LSN", "replay", "--from", "nothing")
	s.refused("exists", "advance", "bookmark", "create", "start")
	s.refused("would keep", "catch up", "bookmark", "create", "big", "--replay.max_bytes", "1")
	s.stop(p)
	live := 0
	for _, seen := range s.sightings() {
		for _, x := range seen {
			if x.replay == "" {
				live++
			}
		}
	}
	if live != 3*n {
		t.Errorf("the stream has published %d events, want %d", live, 3*n)
	}
	s.walpost("bookmark", "drop", "start")
	s.walpost("bookmark", "advance", "middle", "--to", "now")
	var kept []struct{ Bookmark, LSN, Since, Status string }
	s.decode(s.walpost("bookmark", "list", "-o", "json"), &kept)
	if len(kept) != 1 || kept[0].Bookmark != "middle" || harness.MustLSN(t, kept[0].LSN) <= harness.MustLSN(t, to) || kept[0].Since == "" || kept[0].Status != "reserved" {
		t.Errorf("got %+v", kept)
	}
	s.walpost("bookmark", "drop", "middle")
}

// A replay that was stopped goes on where it was, one that was killed a little before.
func TestReplayResumes(t *testing.T) {
	const n = 20_000
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.walpost("bookmark", "create", "start")
	p := s.start("run")
	s.fill(harness.OneTx, 1, n/2)
	s.fill(harness.OneRow, n/2+1, n)
	s.checkpoint()
	s.stop(p)
	for name, signal := range map[string]syscall.Signal{"stopped": syscall.SIGTERM, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			before, err := harness.Count(t.Context(), s.brokers, s.topic)
			if err != nil {
				t.Fatal(err)
			}
			p := s.start("replay", "--from", "start", "--rate", "2000")
			// The stop is to come inside the large transaction, and the kill behind it: what is
			// saved for that is its end.
			s.arrived(before+int64(map[string]int{"stopped": n / 3, "killed": 3 * n / 5}[name]), time.Minute)
			p.Signal(signal)
			if code := s.wait(p, 30*time.Second); signal == syscall.SIGTERM && code != 0 {
				t.Fatalf("exit %d\n%s", code, p.Log())
			}
			_, rest, _ := strings.Cut(p.Log(), "replay ")
			id, _, _ := strings.Cut(rest, ":")
			r := s.replay("--resume", id)
			if !r.Finished || r.Published >= n {
				t.Errorf("got %+v", r)
			}
			if name == "stopped" {
				s.wantReplayed(id, "true")
				s.order(id)
			} else {
				lost, more := 0, 0
				for _, seen := range s.sightings() {
					count := 0
					for _, x := range seen {
						if x.replay == id {
							count++
						}
					}
					if count == 0 {
						lost++
					}
					more += max(0, count-1)
				}
				fmt.Printf("FIGURES killed replay: %d lost, %d repeated of %d\n", lost, more, n)
				if lost > 0 || more > n/4 {
					t.Errorf("%d lost, %d repeated", lost, more)
				}
			}
			s.refused("was finished", "--from", "replay", "--resume", id)
		})
	}
	s.walpost("bookmark", "drop", "start")
}

// Rows that are still in the table are published again without WAL, those that are published.
func TestReplayFromTable(t *testing.T) {
	const n = 1000
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.exec("ALTER TABLE outbox ADD COLUMN created_at timestamptz NOT NULL DEFAULT clock_timestamp()")
	s.exec("GRANT SELECT ON outbox TO " + s.slot)
	p := s.start("run")
	fill := func(first, last int64) {
		s.exec(fmt.Sprintf(`INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq)
			SELECT gen_random_uuid(), 'order', 'order-' || n %% 50, 'created', jsonb_build_object('n', n, 'note', 'päyload'), n FROM generate_series(%d, %d) n`, first, last))
	}
	fill(1, n)
	s.checkpoint()
	since := time.Now()
	fill(n+1, 2*n)
	s.checkpoint()
	harness.Eventually(t, 40*time.Second, "an entry of the log that covers all", func() bool {
		return s.number("SELECT count(*) FROM walpost.checkpoint_log l JOIN pg_replication_slots r ON r.slot_name = slot WHERE slot = $1 AND oldest_xid > (SELECT max(xmin::text::bigint) FROM outbox)::text::xid8", s.slot) > 0
	})
	s.stop(p) // confirms what is idle too
	harness.Eventually(t, 10*time.Second, "confirmed", func() bool {
		return s.number("SELECT count(*) FROM walpost.checkpoint_log l JOIN pg_replication_slots r ON r.slot_name = slot WHERE slot = $1 AND oldest_xid > (SELECT max(xmin::text::bigint) FROM outbox)::text::xid8 AND end_lsn <= confirmed_flush_lsn", s.slot) > 0
	})
	fill(2*n+1, 2*n+10) // which is not published
	s.exec("REVOKE SELECT ON outbox FROM " + s.slot)
	s.refused("permission denied", `hint: GRANT SELECT ON "public"."outbox"`, "replay", "--source", "table", "--from", "-1h", "--dry-run")
	s.exec("GRANT SELECT ON outbox TO " + s.slot)
	from := since.UTC().Format(time.RFC3339Nano)
	if r := s.replay("--source", "table", "--from", from, "--dry-run"); r.Published != n {
		t.Errorf("a dry run counts %+v, want %d", r, n)
	}
	r := s.replay("--source", "table", "--from", from, "--timestamp", "commit")
	if r.Published != n {
		t.Errorf("got %+v, want %d events", r, n)
	}
	s.order(r.Replay)
	texts := 0
	for _, seen := range s.sightings() {
		if len(seen) == 2 && withoutTime(seen[0].text) == withoutTime(seen[1].text) {
			texts++
		}
	}
	if texts != n {
		t.Errorf("%d events came again as they were but for the timestamp, want %d", texts, n)
	}
	s.refused(`no column "at"`, "--order-by", "replay", "--source", "table", "--from", from, "--order-by", "at")
}

// withoutTime leaves out a sighting's timestamp, its second word.
func withoutTime(text string) string {
	words := strings.SplitN(text, " ", 3)
	return words[0] + " " + words[2]
}

// The service keeps a window that moves, from which events can be published again.
func TestReplayWindow(t *testing.T) {
	const n = 500
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("run", "--replay.window", "1h")
	harness.Eventually(t, 30*time.Second, "window", func() bool {
		return strings.Contains(s.walpost("bookmark", "list"), "window")
	})
	harness.Eventually(t, 10*time.Second, "the window's metrics", func() bool {
		_, found := harness.Metric(t.Context(), s.admin, `walpost_bookmark_retained_bytes{bookmark="window"}`)
		return found
	})
	s.fill(harness.OneRow, 1, n)
	s.checkpoint()
	s.refused(`(bookmark "window", set`, "replay.window", "replay", "--from", "-30m") // it began a moment ago
	if r := s.replay("--from", "window"); r.Published != n {
		t.Errorf("got %+v, want %d events", r, n)
	}
	s.stop(p)
	p = s.start("run")
	harness.Eventually(t, 30*time.Second, "no window", func() bool {
		return !strings.Contains(s.walpost("bookmark", "list"), "window")
	})
	s.stop(p)
}
