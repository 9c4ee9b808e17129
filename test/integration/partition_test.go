package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// partitionedStage is one whose outbox is what walpost init --partitioned makes.
func partitionedStage(t *testing.T, db envtest.Database) *stage {
	t.Helper()
	s := newStage(t, db, envtest.Kafka(t).Addrs())
	s.exec("DROP PUBLICATION walpost")
	s.exec("DROP TABLE outbox CASCADE")
	for _, want := range []string{"created  table public.outbox\ncreated  publication walpost\n", "exists   table public.outbox\nexists   publication walpost\n"} {
		if log := s.asAdmin("init", "--partitioned", "day", "--role", s.slot); !strings.Contains(log, want) {
			t.Errorf("init lacks %q:\n%s", want, log)
		}
	}
	s.exec("GRANT SELECT ON outbox TO " + s.slot)
	return s
}

// oldPartition makes one for a past day, and returns its name.
func (s *stage) oldPartition(daysAgo int) string {
	s.t.Helper()
	day := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -daysAgo)
	name := "outbox_p" + day.Format("20060102")
	s.exec(fmt.Sprintf("CREATE TABLE %s PARTITION OF outbox FOR VALUES FROM ('%s') TO ('%s')", name, day.Format(time.RFC3339), day.AddDate(0, 0, 1).Format(time.RFC3339)))
	return name
}

const insertOld = `INSERT INTO outbox (aggregatetype, aggregateid, type, payload, created_at)
	SELECT 'order', 'order-' || n % 10, 'created', '{}', date_trunc('day', now(), 'UTC') - $1::int * interval '1 day' + interval '12 hours' FROM generate_series(1, $2::int) n`

// insertOn writes n rows that belong to a day.
func (s *stage) insertOn(daysAgo, n int) {
	s.t.Helper()
	s.exec(insertOld, daysAgo, n)
}

// hold begins a transaction that has written rows of a day, and returns what ends it.
func (s *stage) hold(daysAgo int) (commit func()) {
	s.t.Helper()
	tx, err := s.db.Connect(s.t).Begin(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := tx.Exec(s.t.Context(), insertOld, daysAgo, 1); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		if err := tx.Commit(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
	}
}

// attached returns the partitions whose time is over.
func (s *stage) attached() []string {
	s.t.Helper()
	return s.names("SELECT part::text FROM walpost.partitions('outbox') WHERE state = 'attached' AND upper <= now() ORDER BY upper")
}

func (s *stage) names(query string) []string {
	s.t.Helper()
	rows, err := s.conn.Query(s.t.Context(), query)
	if err != nil {
		s.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// purgedPartitions is what a test reads of a purge of partitions.
type purgedPartitions struct {
	Deleted, Archived int64
	Dropped           int `json:"dropped_partitions"`
	Tables            []struct {
		Table, Left string
		Rows, Kept  int64
	}
}

func (r purgedPartitions) left() (reasons []string) {
	for _, t := range r.Tables {
		if t.Left != "" {
			reasons = append(reasons, t.Left)
		}
	}
	return reasons
}

func (s *stage) purgePartitions(args ...string) (r purgedPartitions) {
	s.t.Helper()
	s.decode(s.walpost(append([]string{"purge", "-o", "json", "--older-than", "0"}, args...)...), &r)
	return r
}

// slowest writes single rows until it is stopped, and tells how long the slowest has taken.
func (s *stage) slowest() (stop func() time.Duration) {
	s.t.Helper()
	conn := s.db.Connect(s.t)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan time.Duration)
	go func() {
		slowest := time.Duration(0)
		for ctx.Err() == nil {
			begun := time.Now()
			if _, err := conn.Exec(context.WithoutCancel(ctx), insertOld, 0, 1); err != nil {
				s.t.Error(err)
				break
			}
			slowest = max(slowest, time.Since(begun))
		}
		done <- slowest
	}()
	return func() time.Duration { cancel(); return <-done }
}

// longest is how long a writer may wait for a purge: the lock timeout, which is 100 ms, and what
// a machine that is busy adds. The transaction in the way lasts longer.
const longest = 2 * time.Second

// Partitions are made ahead, and dropped as a whole when they are old and published: not
// while a row is not published, or behind a bookmark, or of a transaction that is running.
// Events arrive whatever becomes of their partition.
func TestPartitions(t *testing.T) {
	versions := envtest.Versions()
	if os.Getenv(envtest.VersionsVariable) == "" {
		versions = versions[len(versions)-1:] // each takes a minute and a half
	}
	for _, version := range versions {
		pg := postgres(t, version)
		t.Run(pg.Version, func(t *testing.T) {
			s := partitionedStage(t, envtest.NewDatabaseOn(t, pg))
			t.Run("Delivered", s.testPartitionsDelivered)
			t.Run("Kept", s.testPartitionsKept)
			t.Run("InUse", s.testPartitionsInUse)
			t.Run("Concurrently", s.testPartitionsConcurrently)
			t.Run("LateRows", s.testPartitionsLateRows)
		})
	}
}

// on is the same stage in another test.
func (s *stage) on(t *testing.T) *stage {
	other := *s
	other.t = t
	return &other
}

func (s *stage) testPartitionsDelivered(t *testing.T) {
	s = s.on(t)
	ahead := func() int64 { return s.number("SELECT count(*) FROM walpost.partitions('outbox') WHERE upper > now()") }
	if ahead() != 8 {
		t.Errorf("%d partitions for now and ahead, want 8", ahead())
	}
	for _, name := range s.names("SELECT part::text FROM walpost.partitions('outbox') WHERE lower > now() ORDER BY lower")[1:] {
		s.exec("DROP TABLE " + name)
	}
	if bad, _ := s.doctor(); !slices.ContainsFunc(bad, func(v verdict) bool { return v.Check == "partitions" && v.Verdict == "warn" }) {
		t.Errorf("doctor does not warn that partitions run out: %+v", bad)
	}
	s.exec("REVOKE EXECUTE ON FUNCTION walpost.make_partitions FROM " + s.slot)
	without := s.start("run")
	harness.Eventually(t, 20*time.Second, "warning", func() bool {
		return strings.Contains(without.Log(), "level=WARN msg=\"partitions ahead are not made") && strings.Contains(without.Log(), "run walpost init --partitioned day")
	})
	s.isReady(20 * time.Second)
	s.stop(without)
	s.exec("GRANT EXECUTE ON FUNCTION walpost.make_partitions TO " + s.slot)
	s.exec("SELECT pg_create_logical_replication_slot($1 || '_names', 'pgoutput')", s.slot)
	first, second := s.oldPartition(3), s.oldPartition(2)
	p := s.start("run", "--postgres.status_interval", "500ms")
	harness.Eventually(t, 30*time.Second, "partitions made ahead", func() bool { return ahead() == 8 })
	s.insertOn(3, 100)
	s.insertOn(2, 50)
	s.insertOn(0, 10)
	for name, want := range map[string]int64{first: 100, second: 50} {
		if got := s.number("SELECT count(*) FROM ONLY " + name); got != want {
			t.Errorf("%d rows in %s, want %d", got, name, want)
		}
	}
	s.checkpoint()
	if got := len(s.records()); got != 160 {
		t.Errorf("%d records, want 160", got)
	}
	const others = `SELECT count(*) FILTER (WHERE get_byte(data, 0) = ascii('I')) - 2 * count(*) FILTER (WHERE get_byte(data, 0) = ascii('I') AND encode(substr(data, 2, 4), 'hex') <> lpad(to_hex('outbox'::regclass::oid::bigint), 8, '0'))
		FROM pg_logical_slot_get_binary_changes($1 || '_names', NULL, NULL, 'proto_version', '1', 'publication_names', 'walpost')`
	if got := s.number(others, s.slot); got != 160 {
		t.Errorf("%d, want 160 inserts that are of the table, and none of a partition", got)
	}
	s.exec("SELECT pg_drop_replication_slot($1 || '_names')", s.slot)

	r := s.purgePartitions("--dry-run")
	if len(r.Tables) != 2 || r.Tables[0].Rows != 100 || r.Tables[1].Rows != 50 || len(r.left()) > 0 || r.Dropped != 0 || len(s.attached()) != 2 {
		t.Errorf("dry run: %+v, attached %q", r, s.attached())
	}
	dir := t.TempDir()
	slowest := s.slowest()
	r = s.purgePartitions("--purge.archive", "ndjson", "--purge.archive_dir", dir)
	if took := slowest(); took > longest {
		t.Errorf("an insert took %s", took)
	}
	if r.Dropped != 2 || r.Deleted != 150 || r.Archived != 150 || len(s.attached()) != 0 || s.number("SELECT count(*) FROM pg_class WHERE relname IN ($1, $2)", first, second) != 0 {
		t.Errorf("purge: %+v, attached %q", r, s.attached())
	}
	if got := archived(t, dir); got != 150 {
		t.Errorf("%d lines are archived, want 150", got)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "public."+first+"-*.ndjson")); len(files) != 1 {
		t.Errorf("%d files for %s", len(files), first)
	}
	if s.number("SELECT count(*) FROM outbox") < 10 {
		t.Error("rows of the day were deleted")
	}
	s.stop(p)
}

// age makes all that is published by now that old, as the log has it.
func (s *stage) age(by string) {
	s.t.Helper()
	s.purgePartitions("--dry-run") // notes this moment
	s.exec("UPDATE walpost.checkpoint_log SET at = at - $1::text::interval", by)
}

func (s *stage) testPartitionsKept(t *testing.T) {
	s = s.on(t)
	old := s.oldPartition(3)
	p := s.start("run", "--postgres.status_interval", "500ms")
	s.checkpoint()
	s.age("4 days")
	s.walpost("bookmark", "create", "keep")
	s.insertOn(3, 10)
	s.checkpoint()
	s.exec(`INSERT INTO walpost.checkpoint_log SELECT slot, now() - interval '1 hour', lsn, pg_current_wal_lsn(), pg_snapshot_xmin(pg_current_snapshot()) FROM walpost.checkpoint WHERE slot = $1`, s.slot)
	if r := s.purgePartitions("--older-than", "30m"); r.Dropped != 0 || len(r.left()) != 1 || !strings.Contains(r.left()[0], `bookmark "keep" stands at`) {
		t.Errorf("purge behind a bookmark: %+v", r)
	}
	s.refused(`bookmark "keep" stands at`, "drop the bookmark", "purge", "--older-than", "0")
	s.walpost("bookmark", "drop", "keep")
	s.age("2 hours") // so rows count from their commit, not from the day that they belong to
	s.insertOn(3, 1)
	s.checkpoint()
	r := s.purgePartitions("--older-than", "1h")
	if r.Dropped != 0 || len(r.left()) != 1 || !strings.Contains(r.left()[0], "1 rows are of transactions that had not ended by") || r.Tables[0].Rows != 10 {
		t.Errorf("a young row in an old partition: %+v", r)
	}
	s.stop(p)
	s.insertOn(3, 1)
	s.refused("stands at", "let it catch up", "purge", "--older-than", "0")
	if got := s.attached(); len(got) != 1 || got[0] != old {
		t.Errorf("attached: %q, want %s", got, old)
	}
	p = s.start("run", "--postgres.status_interval", "500ms")
	s.checkpoint()
	if r := s.purgePartitions(); r.Dropped != 1 || r.Deleted != 12 {
		t.Errorf("got %+v, want one dropped with 12 rows", r)
	}
	s.stop(p)
}

func (s *stage) testPartitionsInUse(t *testing.T) {
	s = s.on(t)
	s.oldPartition(3)
	s.oldPartition(2)
	p := s.start("run", "--postgres.status_interval", "500ms")
	s.insertOn(3, 10)
	s.checkpoint()
	for _, of := range []int{0, 3} { // of the table as a whole, and of the partition too
		commit := s.hold(of)
		slowest := s.slowest()
		r := s.purgePartitions()
		took := slowest()
		fmt.Printf("FIGURES Postgres %s: the slowest insert beside a purge that did not get its lock took %s\n", s.version(), took)
		if took > longest {
			t.Errorf("an insert took %s", took)
		}
		if want := "in use by other sessions"; r.Dropped != 0 || len(r.left()) != 2 || !strings.Contains(r.left()[0], want) || !strings.Contains(r.left()[1], want) {
			t.Errorf("purge beside a transaction: %+v", r)
		}
		commit()
	}
	s.checkpoint()
	if r := s.purgePartitions(); r.Dropped != 2 || r.Deleted != 11 {
		t.Errorf("got %+v, want two dropped with 11 rows", r)
	}
	s.stop(p)
}

func (s *stage) version() (v string) {
	s.t.Helper()
	if err := s.conn.QueryRow(s.t.Context(), "SHOW server_version").Scan(&v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// An owner detaches without a lock that inserts would wait for. What a transaction keeps it
// from is finished later, by the role too.
func (s *stage) testPartitionsConcurrently(t *testing.T) {
	s = s.on(t)
	s.oldPartition(3)
	p := s.start("run", "--postgres.status_interval", "500ms")
	s.insertOn(3, 10)
	s.checkpoint()
	commit := s.hold(3)
	slowest := s.slowest()
	r := s.purgePartitions("--dsn", s.db.DSN)
	if took := slowest(); took > longest {
		t.Errorf("an insert took %s", took)
	}
	if r.Dropped != 0 || len(r.left()) != 1 || s.number("SELECT count(*) FROM walpost.partitions('outbox') WHERE state = 'pending'") != 1 {
		t.Errorf("purge beside a transaction: %+v", r)
	}
	commit()
	s.checkpoint()
	if r := s.purgePartitions(); r.Dropped != 1 || r.Deleted != 11 {
		t.Errorf("got %+v, want one dropped with 11 rows", r)
	}
	s.oldPartition(3)
	s.insertOn(3, 5)
	s.checkpoint()
	commit = s.hold(0) // which is in nobody's way
	defer commit()
	if r := s.purgePartitions("--dsn", s.db.DSN); r.Dropped != 1 || r.Deleted != 5 {
		t.Errorf("got %+v, want one dropped with 5 rows", r)
	}
	s.stop(p)
}

// A partition that is detached with rows that are not published is not dropped before they
// are, and they arrive.
func (s *stage) testPartitionsLateRows(t *testing.T) {
	s = s.on(t)
	old := s.oldPartition(3)
	p := s.start("run", "--postgres.status_interval", "500ms")
	s.checkpoint()
	s.age("2 hours")
	s.stop(p)
	before := len(s.records())
	s.insertOn(3, 7)
	s.exec("SELECT walpost.detach_partition('outbox', '" + old + "')")
	s.exec("GRANT SELECT ON " + old + " TO " + s.slot) // as the function would have for the role
	p = s.start("run", "--postgres.status_interval", "500ms")
	s.checkpoint()
	r := s.purgePartitions("--older-than", "1h")
	if len(r.left()) != 1 || r.Dropped != 0 || r.Tables[0].Kept != 7 {
		t.Errorf("a detached partition with young rows: %+v", r)
	}
	if got := len(s.records()); got != before+7 {
		t.Errorf("%d records, want %d", got, before+7)
	}
	if r := s.purgePartitions(); r.Dropped != 1 || r.Deleted != 7 {
		t.Errorf("got %+v, want one dropped with 7 rows", r)
	}
	s.stop(p)
}

// The service drops partitions by itself.
func TestPartitionsByService(t *testing.T) {
	s := partitionedStage(t, envtest.NewDatabase(t))
	s.oldPartition(5)
	s.oldPartition(1)
	s.insertOn(5, 20)
	p := s.start("run", "--postgres.status_interval", "500ms")
	s.checkpoint()
	harness.Eventually(t, 40*time.Second, "an entry of the log that covers all", func() bool {
		return s.number("SELECT count(*) FROM walpost.checkpoint_log WHERE slot = $1 AND oldest_xid > (SELECT max(xmin::text::bigint) FROM outbox)::text::xid8", s.slot) > 0
	})
	s.stop(p)
	s.exec("UPDATE walpost.checkpoint_log SET at = at - interval '75 hours'")
	p = s.start("run", "--purge.older_than", "3d")
	harness.Eventually(t, 30*time.Second, "old partition dropped", func() bool { return len(s.attached()) == 1 })
	harness.Eventually(t, 10*time.Second, "a line in the log", func() bool { return strings.Contains(p.Log(), "msg=purged rows=20 dropped_partitions=1") })
	s.stop(p)
}
