package integration

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// shownStatus is what a test reads of walpost status.
type shownStatus struct {
	Slots []struct {
		Slot       string
		Exists     bool
		Active     bool
		Status     string
		Lag        int64  `json:"lag_bytes"`
		Retained   int64  `json:"retained_bytes"`
		Problem    string `json:"instance_problem"`
		Checkpoint *struct{ LSN string }
		Bookmarks  []struct {
			Bookmark, Status string
			Retained         int64 `json:"retained_bytes"`
		}
		Instance *struct {
			State      string
			Standby    bool
			Ready      bool
			Processed  int64  `json:"events_processed_total"`
			Checkpoint string `json:"checkpoint_lsn"`
		}
	}
	Sum struct {
		LagSeconds *float64 `json:"lag_seconds"`
		Processed  *int64   `json:"events_processed_total"`
		Instances  int
	}
}

func (s *stage) status(args ...string) (st shownStatus) {
	s.t.Helper()
	text := s.walpost(append([]string{"status", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		s.t.Fatalf("%v in %s", err, text)
	}
	return st
}

// What walpost status shows is what the server and the instance say, also while no
// instance runs.
func TestStatus(t *testing.T) {
	const n = 500
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("run")
	s.fill(harness.OneRow, 1, n)
	s.caughtUp(time.Minute)
	harness.Eventually(t, 10*time.Second, "checkpoint saved", func() bool {
		st := s.status().Slots[0]
		return st.Checkpoint != nil && st.Instance != nil && st.Checkpoint.LSN == st.Instance.Checkpoint
	})
	st := s.status().Slots[0]
	if i := st.Instance; st.Slot != s.slot || !st.Active || st.Status != "reserved" || !i.Ready || i.State != "streaming" || i.Processed != n {
		t.Errorf("got %+v and %+v of the instance, want %d events and a slot in use", st, *i, n)
	}
	s.stop(p)

	s.fill(harness.OneRow, n+1, 2*n)
	st = s.status().Slots[0]
	if st.Active || st.Instance != nil || st.Problem == "" || st.Lag < n*100 || st.Retained < st.Lag {
		t.Errorf("got %+v, want a slot that nobody reads and that is behind", st)
	}
	text := s.walpost("status")
	for _, want := range []string{"slot        " + s.slot + ", reserved, not being streamed from\n", "instance    not reached: ", "limit       none but the disk"} {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%swhich has no %q", text, want)
		}
	}
	s.set("POSTGRES_DSN=" + s.db.SocketDSN) // as a superuser, who may see where the data is
	if text := s.walpost("status"); !strings.Contains(text, "; the disk has ") {
		t.Errorf("got\n%swithout what the disk has free, on the same machine", text)
	}
}

// The slots of shards are shown and summed up, whichever shard is configured.
func TestStatusOfShards(t *testing.T) {
	const n = 300
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.initShards(3)
	three := s.startShards(3)
	s.fill(harness.OneRow, 1, n)
	s.shardsCaughtUp(three, time.Minute)
	var addrs []string
	for _, sh := range three {
		addrs = append(addrs, sh.addr)
	}
	st := s.status("--postgres.shard=1/3", "--instance", strings.Join(addrs, ","))
	var names []string
	for _, slot := range st.Slots {
		names = append(names, slot.Slot)
		if !slot.Active || slot.Instance == nil || slot.Instance.Processed == 0 {
			t.Errorf("got %+v, want a shard with events", slot)
		}
	}
	if want := []string{s.slot + "_0_of_3", s.slot + "_1_of_3", s.slot + "_2_of_3"}; !slices.Equal(names, want) || st.Sum.Processed == nil || *st.Sum.Processed != n || st.Sum.LagSeconds == nil || st.Sum.Instances != 3 {
		t.Errorf("got %v and %+v, want %v, a lag, and %d events of 3 instances", names, st.Sum, want, n)
	}
	if st := s.status("--postgres.shard=1/3", "--instance", addrs[1]); st.Sum.LagSeconds != nil || st.Sum.Processed != nil || st.Sum.Instances != 1 || !strings.Contains(st.Slots[0].Problem, "--instance") {
		t.Errorf("got %+v and %q, want no lag of all by one of three, and how to name the others", st.Sum, st.Slots[0].Problem)
	}
	text := s.walpost("status", "--postgres.shard=0/3", "--instance", strings.Join(addrs, ","))
	if !strings.Contains(text, "all 3") || !strings.Contains(text, "3 reached") {
		t.Errorf("got\n%s", text)
	}
	for _, sh := range three {
		s.stop(sh.process)
	}
}

// A slot that is not there is a failure with the way out.
func TestStatusWithoutSlot(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("status", "--slot", "nosuch")
	if code := s.wait(p, time.Minute); code != 1 || !strings.Contains(p.Log(), `slot "nosuch" does not exist`) || !strings.Contains(p.Log(), "hint: run walpost init") {
		t.Errorf("exit %d\n%s", code, p.Log())
	}
}

// The instance that streams is shown, in whatever order it and its standby are named.
func TestStatusWithStandby(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	live := s.start("run")
	s.isReady(30 * time.Second)
	second := harness.FreeAddr(t)
	standby := s.start("run", "--admin.listen", second)
	harness.Eventually(t, 30*time.Second, "a standby", func() bool {
		_, word := harness.Ready(t.Context(), second)
		return strings.Contains(word, "standby")
	})
	for _, instances := range []string{s.admin + "," + second, second + "," + s.admin} {
		if st := s.status("--instance", instances).Slots[0]; st.Instance == nil || st.Instance.State != "streaming" {
			t.Errorf("%s: got %+v, want the instance that streams", instances, st.Instance)
		}
	}
	s.stop(standby)
	s.stop(live)
}

// What bookmarks keep is in the metrics, also where the database has none of walpost's own
// tables to be kept, and in what walpost status shows.
func TestBookmarksAreSeen(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.set("CHECKPOINT_STORE=file", "CHECKPOINT_FILE="+filepath.Join(t.TempDir(), "checkpoint"))
	s.walpost("bookmark", "create", "first")
	p := s.start("run")
	s.fill(harness.OneRow, 1, 100)
	s.caughtUp(time.Minute)
	const retained = `walpost_bookmark_retained_bytes{bookmark="first"}`
	harness.Eventually(t, 20*time.Second, "the bookmark's metrics", func() bool {
		kept, found := harness.Metric(t.Context(), s.admin, retained)
		age, dated := harness.Metric(t.Context(), s.admin, `walpost_bookmark_age_seconds{bookmark="first"}`)
		return found && dated && kept > 0 && age > 0
	})
	st := s.status().Slots[0]
	if b := st.Bookmarks; len(b) != 1 || b[0].Bookmark != "first" || b[0].Status != "reserved" || b[0].Retained <= 0 {
		t.Errorf("got %+v, want the bookmark", b)
	}
	if text := s.walpost("status"); !strings.Contains(text, "bookmark    first, reserved, keeps ") || !strings.Contains(text, " of WAL, set ") {
		t.Errorf("got\n%s", text)
	}
	s.stop(p)
}

// A slot of another database is none of ours, for status and for init.
func TestSlotOfAnotherDatabase(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	other := envtest.NewDatabase(t)
	for _, command := range []string{"status", "init"} {
		p := s.start(command, "--dsn", other.DSN)
		if code := s.wait(p, time.Minute); code != 1 || !strings.Contains(p.Log(), "belongs to") || !strings.Contains(p.Log(), "hint: ") {
			t.Errorf("%s: exit %d, want 1 and whose slot it is\n%s", command, code, p.Log())
		}
	}
}

// What is known is shown also where the checkpoint cannot be read.
func TestStatusWithoutCheckpoint(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.db.Exec(t, "REVOKE ALL ON walpost.checkpoint FROM "+s.slot)
	if text := s.walpost("status"); !strings.Contains(text, "retained    ") || !strings.Contains(text, "checkpoint  not read: ") {
		t.Errorf("got\n%s", text)
	}
}
