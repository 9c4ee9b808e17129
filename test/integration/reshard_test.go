package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

// Who leaves postgres.shard out, or names another number of shards than there is, is told the
// number, and not to make a slot beside them, which would keep WAL.
func TestBesideShards(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.dropSlot(t)
	s.initShards(3)
	s.db.Exec(t, "DROP PUBLICATION walpost")
	for _, args := range [][]string{
		{"run"},
		{"run", "--from-lsn", "0/100"},
		{"run", "--postgres.create_slot=false"},
		{"status"},
		{"purge", "--older-than", "1h"},
		{"purge", "--older-than", "0"},
		{"bookmark", "list"},
		{"bookmark", "create", "b"},
		{"bookmark", "advance", "b"},
		{"checkpoint", "set", "0/100"},
		{"replay", "--from", "-1h"},
	} {
		const want = " of 3 shards: set postgres.shard to i/3, with i from 0 to 2; "
		s.refused("does not exist", want, args...)
		s.refused("does not exist", want, append(args, "--postgres.shard=1/4")...)
	}
	p := s.start("doctor")
	if code := s.wait(p, time.Minute); code != 1 || strings.Count(p.Log(), "set postgres.shard to i/3") < 2 || strings.Contains(p.Log(), "walpost init") {
		t.Errorf("doctor: exit %d, want it to name the number of shards for publication and slot\n%s", code, p.Log())
	}
}

// A number of shards that was used before is refused by init while positions of it stand and
// others publish; where nothing else does, init makes what is missing and leaves the rest to run.
func TestInitShardsUsedBefore(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	s.dropSlot(t)
	whole := s.slot
	s.initShards(3)
	for i := range 2 {
		s.slot = fmt.Sprintf("%s_%d_of_2", whole, i)
		s.save(t, "system_id", "pg_current_wal_lsn()")
	}
	s.slot = whole + "_orders_0_of_2" // another service's
	s.save(t, "system_id", "pg_current_wal_lsn()")
	s.slot = whole
	s.save(t, "system_id", "pg_current_wal_lsn()")
	again := []string{"init", "--no-table", "--dsn", s.db.DSN}
	const used = "was used before, and is gone, and its position stands at"
	ofTwo := fmt.Sprintf("DELETE FROM walpost.checkpoint WHERE slot ~ '^%s_[0-9]+_of_2$'", whole)
	ofAll := fmt.Sprintf("DELETE FROM walpost.checkpoint WHERE slot = '%s'", whole)
	s.refused(used, ofTwo, append(again, "--shards", "2")...)
	s.refused(used, ofAll, again...)
	s.refused("was used before", "set postgres.slot to another name", append(again, "--shards", "2", "--delivery.guarantee", "exactly-once")...)
	if n := s.number("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"); n != 3 {
		t.Errorf("got %d slots, want those of 3 shards only", n)
	}

	s.db.Exec(t, ofTwo)
	if n := s.number("SELECT count(*) FROM walpost.checkpoint WHERE slot LIKE '%_of_2'"); n != 1 {
		t.Errorf("%d positions of two shards are left, want the other service's", n)
	}
	if text := s.walpost(append(again, "--shards", "2")...); !strings.Contains(text, "hint: there are slots of 3 shards too") || strings.Count(text, "created  slot") != 2 {
		t.Errorf("got\n%swant two slots, and that there are others", text)
	}
	if text := s.walpost(append(again, "--shards", "2")...); strings.Contains(text, "hint: ") {
		t.Errorf("got\n%sof what was there", text)
	}
	if n := s.number("SELECT count(*) FROM walpost.checkpoint WHERE slot = $1", whole); n != 1 {
		t.Errorf("got %d positions of all keys, want it as it was", n)
	}

	// One that was dropped is made at once: what it loses run tells.
	s.slot = whole + "_1_of_2"
	s.save(t, "system_id", "pg_current_wal_lsn()")
	s.dropSlot(t)
	if text := s.walpost(append(again, "--postgres.shard", "1/2", "--slot", whole)...); strings.Count(text, "created  slot") != 1 {
		t.Errorf("got\n%swant the slot that was dropped", text)
	}
}
