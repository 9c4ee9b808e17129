package integration

import (
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// shard is one of several instances, each with its share of the keys.
type shard struct {
	addr    string
	process *harness.Process
}

// startShards runs all shards. Their slots are there by now.
func (s *stage) startShards(count int) []shard {
	s.t.Helper()
	all := make([]shard, count)
	for i := range all {
		all[i].addr = harness.FreeAddr(s.t)
		all[i].process = s.startShard(all[i].addr, i, count)
	}
	return all
}

func (s *stage) startShard(addr string, i, count int) *harness.Process {
	s.t.Helper()
	return s.start("run", "--admin.listen", addr, fmt.Sprintf("--postgres.shard=%d/%d", i, count))
}

// initShards makes the publications and slots, as who may.
func (s *stage) initShards(count int) {
	s.t.Helper()
	s.walpost("init", "--no-table", "--dsn", s.db.DSN, "--shards", strconv.Itoa(count))
}

// shardsCaughtUp waits until all has been acknowledged that is committed now.
func (s *stage) shardsCaughtUp(all []shard, limit time.Duration) {
	s.t.Helper()
	for _, sh := range all {
		whole := s.admin
		s.admin = sh.addr
		s.caughtUp(limit)
		s.admin = whole
	}
}

// Three shards deliver all events, each its share of the keys and in their order, while
// one after the other is killed. Two take over from the three by the documented way,
// while events are written: nothing is lost, and no event comes before an earlier one
// of its key.
func TestShards(t *testing.T) {
	s, n := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs()), events(t)/2
	s.db.Exec(t, "SELECT pg_drop_replication_slot('"+s.slot+"')")
	s.initShards(3)
	three := s.startShards(3)
	filled := make(chan error, 1)
	go func() { filled <- harness.Fill(t.Context(), s.conn, harness.OneRow, 1, n) }()
	for i := range three {
		time.Sleep(time.Second) // in the middle of it
		three[i].process.Signal(syscall.SIGKILL)
		s.wait(three[i].process, 10*time.Second)
		three[i].process = s.startShard(three[i].addr, i, 3)
	}
	if err := <-filled; err != nil {
		t.Fatal(err)
	}
	s.shardsCaughtUp(three, 2*time.Minute)
	r := s.check()
	fmt.Printf("FIGURES 3 shards, each killed once: %s\n", r)

	conn := s.db.Connect(t)
	go func() { filled <- harness.Fill(t.Context(), conn, harness.OneRow, n+1, 2*n) }()
	two := s.reshard(three, 2)
	if err := <-filled; err != nil {
		t.Fatal(err)
	}
	s.shardsCaughtUp(two, 2*time.Minute)
	before := r.Duplicated
	r = s.check()
	fmt.Printf("FIGURES 2 shards instead of 3 while events are written: %s, %d of the repeats by the change\n", r, r.Duplicated-before)
	var shares []float64
	for _, sh := range two {
		v, _ := harness.Metric(t.Context(), sh.addr, `walpost_events_processed_total{topic="`+s.topic+`"}`)
		shares = append(shares, v)
		s.stop(sh.process)
	}
	if shares[0] == 0 || shares[1] == 0 {
		t.Errorf("the shards have delivered %v events", shares)
	}

	// With writers paused nothing is repeated.
	two = s.startShards(2)
	s.shardsCaughtUp(two, time.Minute)
	before = s.check().Duplicated
	four := s.reshard(two, 4)
	if err := harness.Fill(t.Context(), conn, harness.OneRow, 2*n+1, 2*n+1000); err != nil {
		t.Fatal(err)
	}
	s.shardsCaughtUp(four, 2*time.Minute)
	r = s.check()
	fmt.Printf("FIGURES 4 shards instead of 2 while nobody writes: %s, %d of the repeats by the change\n", r, r.Duplicated-before)
	if r.Duplicated != before {
		t.Error("repeats although nobody wrote")
	}

	// A number that was used before can be used again.
	two = s.reshard(four, 2)
	if err := harness.Fill(t.Context(), conn, harness.OneRow, 2*n+1001, 2*n+2000); err != nil {
		t.Fatal(err)
	}
	s.shardsCaughtUp(two, 2*time.Minute)
	if again := s.check(); again.Duplicated != before {
		t.Errorf("%d repeats although nobody wrote", again.Duplicated-before)
	}
	for _, sh := range two {
		s.stop(sh.process)
	}
}

// reshard has other shards take over in the way that the README describes: what was committed
// before a new slot was made is the old ones' to deliver.
func (s *stage) reshard(old []shard, count int) []shard {
	s.t.Helper()
	s.initShards(count)
	passed := fmt.Sprintf(`SELECT min(confirmed_flush_lsn) FILTER (WHERE slot_name LIKE '%%\_of\_%d') >= max(confirmed_flush_lsn) FILTER (WHERE slot_name LIKE '%%\_of\_%d')
		FROM pg_replication_slots WHERE database = current_database()`, len(old), count)
	for tries := 1; ; tries++ {
		for _, sh := range old {
			s.stop(sh.process)
		}
		ok := false
		if err := s.conn.QueryRow(s.t.Context(), passed).Scan(&ok); err != nil {
			s.t.Fatal(err)
		}
		if ok {
			break
		}
		if tries == 10 {
			s.t.Fatal("the old shards are not past the new slots")
		}
		old = s.startShards(len(old))
		time.Sleep(2 * time.Second)
	}
	dropped := fmt.Sprintf(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database() AND slot_name LIKE '%%\_of\_%d'`, len(old))
	s.db.Exec(s.t, dropped)
	s.db.Exec(s.t, fmt.Sprintf(`DELETE FROM walpost.checkpoint WHERE slot LIKE '%%\_of\_%d'`, len(old)))
	return s.startShards(count)
}
