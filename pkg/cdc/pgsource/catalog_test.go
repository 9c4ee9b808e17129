package pgsource

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// open opens a stream of a slot that is created for it.
func open(t *testing.T, cfg Config) (cdc.Stream, error) {
	t.Helper()
	src := newSource(t, cfg)
	st, err := src.Open(t.Context(), fromSlot)
	if err == nil {
		t.Cleanup(func() { _ = st.Close() })
	}
	return st, err
}

const root = `CREATE TABLE outbox (n int, pad text) PARTITION BY RANGE (n);
	CREATE TABLE p1 PARTITION OF outbox FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF outbox FOR VALUES FROM (10) TO (20);`

// A publication that leaves rows of the outbox out, or brings them under another
// name, is refused, and any other is taken.
func TestPublications(t *testing.T) {
	tests := []struct {
		name, sql, table string
		refusal          string // part of it; empty if the publication is good
	}{
		{name: "Plain", sql: "CREATE TABLE outbox (n int, pad text); CREATE PUBLICATION p FOR TABLE outbox"},
		{name: "AllTables", sql: root + "CREATE PUBLICATION p FOR ALL TABLES"},
		{name: "AllTablesViaRoot", sql: root + "CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root = true)"},
		{name: "AllTablesWithoutPartitions", sql: "CREATE TABLE outbox (n int) PARTITION BY RANGE (n); CREATE PUBLICATION p FOR ALL TABLES"},
		{name: "Root", sql: root + "CREATE PUBLICATION p FOR TABLE outbox"},
		{name: "RootWithoutPartitions", sql: "CREATE TABLE outbox (n int) PARTITION BY RANGE (n); CREATE PUBLICATION p FOR TABLE outbox"},
		{name: "ViaRoot", sql: root + "CREATE PUBLICATION p FOR TABLE outbox WITH (publish_via_partition_root = true)"},
		{name: "EachPartition", sql: root + "CREATE PUBLICATION p FOR TABLE p1, p2"},
		{name: "Schema", sql: root + "CREATE PUBLICATION p FOR TABLES IN SCHEMA public"},
		{name: "OnePartition", sql: root + "CREATE PUBLICATION p FOR TABLE p1", refusal: "does not contain p2, a partition"},
		{name: "NoPartition", sql: root + "CREATE PUBLICATION p", refusal: "does not contain p1, a partition"},
		{name: "Nothing", sql: "CREATE TABLE outbox (n int); CREATE PUBLICATION p", refusal: "does not contain the outbox table"},
		{name: "NothingWithoutPartitions", sql: "CREATE TABLE outbox (n int) PARTITION BY RANGE (n); CREATE PUBLICATION p", refusal: "does not contain the outbox table"},
		{name: "PartitionOfPublishedRoot", table: "p1", sql: root + "CREATE PUBLICATION p FOR TABLE outbox"},
		{
			name: "PartitionUnderItsRootsName", table: "p1", refusal: `as those of "public"."outbox"`,
			sql: root + "CREATE PUBLICATION p FOR TABLE outbox WITH (publish_via_partition_root = true)",
		},
		{name: "QuotedNames", table: `we"ird.Näme`, sql: `CREATE TABLE "we""ird.Näme" (n int); CREATE PUBLICATION p FOR TABLE "we""ird.Näme"`},
	}
	pg := envtest.Postgres(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			db := envtest.NewDatabaseOn(t, pg)
			db.Exec(t, tt.sql)
			table := Table{"public", "outbox"}
			if tt.table != "" {
				table.Name = tt.table
			}
			slot := envtest.Name(t)
			db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
			_, err := open(t, Config{DSN: db.DSN, Slot: slot, Publication: "p", Tables: []Table{table}})
			if tt.refusal == "" {
				if err != nil {
					t.Errorf("Open() = %v", err)
				}
				return
			}
			var refused *cdc.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.refusal) || refused.Hint == "" {
				t.Errorf("Open() = %v, want a refusal with %q and a hint", err, tt.refusal)
			}
		})
	}
}

// A row filter is the user's own doing, and is said once.
func TestRowFilter(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, log, _ := outbox(t, db)
	db.Exec(t, "ALTER PUBLICATION p SET TABLE outbox WHERE (n > 5)")
	if _, err := open(t, cfg); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "row filter"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, log)
	}
}

// A publication that loses the table while the stream runs ends it.
func TestPublicationChanges(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	src := newSource(t, cfg)
	r := start(t, src, cdc.Position{}, &run{})
	write(1, 1)
	r.await(1)
	db.Exec(t, "ALTER PUBLICATION p DROP TABLE outbox")
	checkRefused(t, r, "does not contain the outbox table")
}

// WAL that was written before there was the publication cannot be read with it. The
// server says so with an error, and from 18 on with a warning only.
func TestPublicationIsYounger(t *testing.T) {
	for _, version := range envtest.Versions() {
		pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: version})
		for name, above := range map[string]int64{"Streamed": -1, "Pulled": 1} {
			t.Run(pg.Version+"/"+name, func(t *testing.T) {
				db := envtest.NewDatabaseOn(t, pg)
				cfg, _, write := outbox(t, db)
				cfg.PullAbove = above
				db.Exec(t, "DROP PUBLICATION p")
				write(1, 10)
				db.Exec(t, "CREATE PUBLICATION p FOR TABLE outbox")
				src := newSource(t, cfg)
				checkRefused(t, start(t, src, cdc.Position{}, &run{}), "did not exist yet")
			})
		}
	}
}

// What else does not exist is no missing publication.
func TestLacksPublication(t *testing.T) {
	for routine, want := range map[string]bool{"get_publication_oid": true, "ReplicationSlotAcquire": false, "typenameType": false} {
		if got := lacksPublication(&pgproto3.ErrorResponse{Code: codeUndefinedObject, Routine: routine}); got != want {
			t.Errorf("error of %s: got %t, want %t", routine, got, want)
		}
	}
}

func checkRefused(t *testing.T, r *run, want string) {
	t.Helper()
	select {
	case err := <-r.ended:
		var refused *cdc.RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) || refused.Hint == "" {
			t.Errorf("Run() = %v, want a refusal with %q and a hint", err, want)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("the stream goes on; want a refusal with %q", want)
	}
}

// A table that becomes a partition in the very transaction that fills it is the
// outbox's, also when the transaction is streamed while it is not one yet.
func TestAttachedWhereItIsFilled(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"logical_decoding_work_mem": "64kB"}})
	db := envtest.NewDatabaseOn(t, pg)
	db.Exec(t, root+"CREATE TABLE p3 (n int, pad text); CREATE TABLE other (n int); CREATE PUBLICATION p FOR ALL TABLES")
	slot := envtest.Name(t)
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	src := newSource(t, Config{DSN: db.DSN, Slot: slot, Publication: "p", Tables: []Table{{"public", "outbox"}}, Columns: []string{"n", "pad"}})
	r := start(t, src, cdc.Position{}, &run{})
	db.Exec(t, "INSERT INTO p3 VALUES (0, 'before it is one'); INSERT INTO other VALUES (1)")
	db.Exec(t, "TRUNCATE p3")
	conn := db.Connect(t)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec("BEGIN")
	exec("ALTER TABLE outbox ATTACH PARTITION p3 FOR VALUES FROM (20) TO (100000)")
	exec("INSERT INTO outbox SELECT n, repeat('x', 100) FROM generate_series(21, 3020) n")
	look := db.Connect(t)
	for streamed := false; !streamed; time.Sleep(10 * time.Millisecond) { // until the server has streamed some of it
		if err := look.QueryRow(t.Context(), "SELECT stream_bytes > 0 FROM pg_stat_replication_slots WHERE slot_name = $1", slot).Scan(&streamed); err != nil {
			t.Fatal(err)
		}
	}
	exec("COMMIT")
	if got := r.await(3000); len(got) != 3000 || got[0] != "21" {
		t.Errorf("got %d rows from %s, want 3000 from 21", len(got), got[0])
	}
	r.stop()
}

// While Open waits for the position, however long, the slot stays owned.
func TestOwnedWhileOpening(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"wal_sender_timeout": "1s"}})
	db := envtest.NewDatabaseOn(t, pg)
	cfg, _, write := outbox(t, db)
	src := newSource(t, cfg)
	asked := make(chan struct{})
	opened := make(chan error, 1)
	var st cdc.Stream
	go func() {
		var err error
		st, err = src.Open(t.Context(), func(context.Context, cdc.Position) (cdc.Position, error) {
			close(asked)
			time.Sleep(3 * time.Second) // three times what the session may be idle
			return cdc.Position{}, nil
		})
		opened <- err
	}()
	<-asked
	key := lockKey(cfg.Slot)
	conn := db.Connect(t)
	for done := false; !done; {
		select {
		case err := <-opened:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		case <-time.After(50 * time.Millisecond):
			var got bool
			if err := conn.QueryRow(t.Context(), "SELECT pg_try_advisory_lock($1)", key).Scan(&got); err != nil || got {
				t.Fatalf("another session got the lock: %t, %v", got, err)
			}
		}
	}
	c := &run{t: t, st: st, ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	c.cancel = cancel
	go func() { c.ended <- st.Run(ctx, c) }()
	write(1, 1)
	c.await(1)
	c.stop()
}

// A session is bounded in how long it keeps the slot once it is cut off, and the source
// says when the server has not answered for some seconds.
func TestTimeouts(t *testing.T) {
	for setting, want := range map[string]time.Duration{"0": maxSenderTimeout, "60s": maxSenderTimeout, "2s": 2 * time.Second} {
		t.Run(setting, func(t *testing.T) {
			db := envtest.NewDatabase(t)
			cfg, _, write := outbox(t, db)
			db.Exec(t, "ALTER DATABASE "+db.Name+" SET wal_sender_timeout = '"+setting+"'")
			src := newSource(t, cfg)
			r := start(t, src, cdc.Position{}, &run{})
			write(1, 1)
			r.await(1)
			if got := r.st.(*Stream).senderTimeout; got != want {
				t.Errorf("wal_sender_timeout of the session = %s, want %s", got, want)
			}
			if err := src.Healthy(); err != nil {
				t.Errorf("Healthy() = %v", err)
			}
			r.stop()
		})
	}
	var src Source
	src.contact.Store(cdc.Stamp(time.Now().Add(-maxQuiet - time.Second)))
	if src.Healthy() == nil {
		t.Error("Healthy() = nil though the server is silent")
	}
	src.contact.Store(cdc.Stamp(time.Now()))
	st, r := new(Stream), new(socketReader)
	st.repl.Store(&replication{reader: r})
	src.running.Store(st)
	r.lastRead.Store(cdc.Stamp(time.Now().Add(-maxQuiet - time.Second)))
	if err := src.Healthy(); err != nil {
		t.Errorf("Healthy() = %v while nobody reads", err)
	}
	r.reading.Store(true)
	if src.Healthy() == nil {
		t.Error("Healthy() = nil though the stream is silent")
	}
}

// A partition that is made and attached while the publication is looked at is in it,
// and must not look left out.
func TestPublicationWhilePartitionsAreAttached(t *testing.T) {
	db := envtest.NewDatabase(t)
	db.Exec(t, root+"CREATE PUBLICATION p FOR TABLE outbox")
	src := newSource(t, Config{DSN: db.DSN, Slot: envtest.Name(t), Publication: "p", Tables: []Table{{"public", "outbox"}}})
	attaching, conn := db.Connect(t), db.Connect(t)
	for n := range 50 {
		attached := make(chan error, 1)
		go func() {
			_, err := attaching.Exec(t.Context(), fmt.Sprintf("CREATE TABLE a%[1]d (n int, pad text); ALTER TABLE outbox ATTACH PARTITION a%[1]d FOR VALUES FROM (%[2]d) TO (%[3]d)", n, 20+n, 21+n))
			attached <- err
		}()
		_, err := src.checkPublication(t.Context(), conn)
		if err := errors.Join(err, <-attached); err != nil {
			t.Fatal(err)
		}
	}
}
