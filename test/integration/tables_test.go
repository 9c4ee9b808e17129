package integration

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// payloads are SQL expressions, one for each kind of payload column.
var payloads = map[string][]string{
	"text": {
		"'plain'", "''", "NULL", "repeat('x', 1000000)",
		"(SELECT string_agg(chr(n), '') FROM generate_series(1, 1114111, 97) n WHERE n NOT BETWEEN 55296 AND 57343)",
		`E'tab\ttab line\nline quote " back \\ nul-less'`,
	},
	"json":  {`'{"a" : 1,  "a":2}'`, "NULL", `'null'`, `'"\\u0041"'`},
	"jsonb": {`'{"n": 123456789012345678901234567890}'`, `'{"n": 0.1234567890123456789012345678901}'`, `'null'`, "NULL", `'{"😀": "päyload"}'`},
	"bytea": {"(SELECT string_agg(decode(lpad(to_hex(n), 2, '0'), 'hex'), '' ORDER BY n) FROM generate_series(0, 255) n)", `'\x'`, "NULL"},
}

// Payloads of every kind arrive byte for byte, through a stream in binary format
// and through one in text format.
func TestPayloads(t *testing.T) {
	brokers := envtest.Kafka(t).Addrs()
	for _, version := range envtest.Versions() {
		pg := postgres(t, version)
		for kind, values := range payloads {
			for _, extra := range []string{"", "numeric"} {
				t.Run(fmt.Sprintf("%s/%s%s", pg.Version, kind, extra), func(t *testing.T) {
					s := newStage(t, envtest.NewDatabaseOn(t, pg), brokers)
					s.db.Exec(t, "ALTER TABLE outbox ALTER COLUMN payload TYPE "+kind+" USING NULL")
					if extra != "" {
						// A type whose binary format is not decoded: the stream is in text.
						s.db.Exec(t, "ALTER TABLE outbox ADD COLUMN extra numeric DEFAULT 1.5")
					}
					p := s.start("run")
					for i, v := range values {
						s.db.Exec(t, fmt.Sprintf("INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq) VALUES (gen_random_uuid(), 'a', 'k%d', 't', %s, 1)", i, v))
					}
					s.arrived(int64(len(values)), time.Minute)
					s.stop(p)
					text := map[bool]string{true: "payload", false: "payload::text"}[kind == "bytea"]
					ledger, err := harness.ReadLedger(t.Context(), s.conn, "outbox", text)
					if err != nil {
						t.Fatal(err)
					}
					r, err := harness.Check(t.Context(), brokers, ledger, s.topic)
					if err != nil || !r.OK() || r.Duplicated > 0 {
						t.Errorf("%v %v", r, err)
					}
				})
			}
		}
	}
}

func postgres(t *testing.T, version string) *testenv.PostgresServer {
	t.Helper()
	if version == "" {
		return envtest.Postgres(t)
	}
	return envtest.NewPostgres(t, testenv.PostgresConfig{Version: version})
}

// tableCase is an outbox of some shape and the records that must come of it.
type tableCase struct {
	name     string
	before   string // before the slot is made
	during   string // while walpost runs; statements are one transaction each
	settings []string
	want     []string // key value headers, in order by key
	live     bool     // as a backlog it would be another story
}

var tableCases = []tableCase{
	{
		name:   "SeveralTables",
		before: "CREATE TABLE a (LIKE outbox); CREATE SCHEMA \"Other\"; CREATE TABLE \"Other\".\"B\" (LIKE outbox); ALTER PUBLICATION walpost ADD TABLE a, \"Other\".\"B\"",
		during: `INSERT INTO a VALUES ('00000000-0000-4000-8000-00000000000a', 'x', 'k1', 't', '1', 1);
			INSERT INTO "Other"."B" VALUES ('00000000-0000-4000-8000-00000000000b', 'x', 'k2', 't', '2', 1)`,
		settings: []string{`OUTBOX_TABLE=public.a,"Other"."B"`},
		want:     []string{"k1 1 id=00000000-0000-4000-8000-00000000000a", "k2 2 id=00000000-0000-4000-8000-00000000000b"},
	},
	{
		name:   "OtherTableOfThePublicationIsLeftAlone",
		before: "CREATE TABLE other (LIKE outbox); ALTER PUBLICATION walpost ADD TABLE other",
		during: "INSERT INTO other SELECT e.* FROM event(1) e; INSERT INTO outbox VALUES ('00000000-0000-4000-8000-00000000000a', 'x', 'k1', 't', '1', 1)",
		want:   []string{"k1 1 id=00000000-0000-4000-8000-00000000000a"},
	},
	{
		name: "OrderOfColumns",
		before: `DROP TABLE outbox CASCADE; CREATE TABLE outbox (extra int, payload text, "Key" bigint, at timestamp(3), route varchar(20), uid uuid);
			ALTER PUBLICATION walpost ADD TABLE outbox`,
		during: `INSERT INTO outbox VALUES (7, 'p', -5, '2024-02-29 12:34:56.789', 'x', '00000000-0000-4000-8000-00000000000a'),
			(NULL, NULL, 6, NULL, 'x', NULL)`,
		settings: []string{"OUTBOX_ID=uid", "OUTBOX_KEY=Key", "OUTBOX_ROUTE=route", "OUTBOX_PLACE=extra:header:n,at:header"},
		want: []string{
			"-5 p id=00000000-0000-4000-8000-00000000000a n=7 at=1709210096789",
			"6 <null> id=<null> n=<null> at=<null>",
		},
	},
	{
		name: "ColumnsAddedWhileRunning",
		during: `INSERT INTO outbox VALUES ('00000000-0000-4000-8000-000000000001', 'x', 'k1', 't', '1', 1);
			ALTER TABLE outbox ADD COLUMN tenant text DEFAULT 'acme';
			INSERT INTO outbox VALUES ('00000000-0000-4000-8000-000000000002', 'x', 'k2', 't', '2', 1, 'emca');
			ALTER TABLE outbox ADD COLUMN price numeric DEFAULT 1.50;
			INSERT INTO outbox VALUES ('00000000-0000-4000-8000-000000000003', 'x', 'k3', 't', '3', 1, 'x', 2.5);
			ALTER TABLE outbox DROP COLUMN tenant;
			INSERT INTO outbox VALUES ('00000000-0000-4000-8000-000000000004', 'x', 'k4', 't', '4', 1, 2.5)`,
		want: []string{
			"k1 1 id=00000000-0000-4000-8000-000000000001", "k2 2 id=00000000-0000-4000-8000-000000000002",
			"k3 3 id=00000000-0000-4000-8000-000000000003", "k4 4 id=00000000-0000-4000-8000-000000000004",
		},
	},
	{
		name:   "PartitionedThroughItsRoot",
		before: partitioned + "; ALTER PUBLICATION walpost SET (publish_via_partition_root = true)",
		during: intoPartitions,
		want:   fromPartitions,
	},
	{
		name:   "PartitionedEachByItself",
		before: partitioned,
		during: intoPartitions,
		want:   fromPartitions,
	},
	{
		name:   "PartitionFilledBeforeItIsAttached",
		before: partitioned + "; DROP PUBLICATION walpost; CREATE PUBLICATION walpost FOR ALL TABLES WITH (publish = 'insert')",
		during: `INSERT INTO outbox VALUES ('00000000-0000-4000-8000-000000000001', 'x', 'k1', 't', '1', 1);
			CREATE TABLE p2 (LIKE outbox);
			INSERT INTO p2 VALUES ('00000000-0000-4000-8000-000000000002', 'x', 'k2', 't', '2', 11);
			SELECT pg_sleep(1);
			ALTER TABLE outbox ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
			INSERT INTO outbox VALUES ('00000000-0000-4000-8000-000000000003', 'x', 'k3', 't', '3', 12)`,
		want: []string{"k1 1 id=00000000-0000-4000-8000-000000000001", "k3 3 id=00000000-0000-4000-8000-000000000003"},
		live: true,
	},
	{
		name:   "UpdatesAndDeletesAreNotEvents",
		before: "ALTER PUBLICATION walpost SET (publish = 'insert, update, delete, truncate')",
		during: `INSERT INTO outbox VALUES ('00000000-0000-4000-8000-00000000000a', 'x', 'k1', 't', '1', 1);
			UPDATE outbox SET payload = '2'; DELETE FROM outbox; TRUNCATE outbox;
			INSERT INTO outbox VALUES ('00000000-0000-4000-8000-00000000000b', 'x', 'k2', 't', '2', 1)`,
		want: []string{"k1 1 id=00000000-0000-4000-8000-00000000000a", "k2 2 id=00000000-0000-4000-8000-00000000000b"},
	},
	{
		name:     "PlacedPartitionAndPositionHeaders",
		before:   "ALTER TABLE outbox ADD COLUMN part int; ALTER TABLE outbox ADD COLUMN at timestamptz",
		during:   `INSERT INTO outbox VALUES ('00000000-0000-4000-8000-00000000000a', 'x', 'k1', 'created', '1', 1, 7, '2024-02-29 12:34:56+05')`,
		settings: []string{"OUTBOX_PLACE=part:partition,type:header:eventType,at:header", "OUTBOX_POSITION_HEADERS=true"},
		want:     []string{"k1 1 id=00000000-0000-4000-8000-00000000000a eventType=created at=2024-02-29T07:34:56.000000Z walpost-lsn=LSN walpost-seq=1"},
	},
}

const (
	partitioned = `DROP TABLE outbox CASCADE;
		CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload jsonb, seq bigint) PARTITION BY RANGE (seq);
		CREATE TABLE p1 PARTITION OF outbox FOR VALUES FROM (0) TO (10);
		ALTER PUBLICATION walpost ADD TABLE outbox`

	// The second partition comes later, with its columns in another order; the
	// first is gone when its last row may not have been read yet.
	intoPartitions = `INSERT INTO outbox VALUES ('00000000-0000-4000-8000-000000000001', 'x', 'k1', 't', '1', 1);
		CREATE TABLE p2 (seq bigint, payload jsonb, id uuid, type text, aggregateid text, aggregatetype text);
		ALTER TABLE outbox ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20);
		INSERT INTO outbox VALUES ('00000000-0000-4000-8000-000000000002', 'x', 'k2', 't', '2', 11);
		INSERT INTO outbox VALUES ('00000000-0000-4000-8000-000000000003', 'x', 'k3', 't', '3', 2);
		ALTER TABLE outbox DETACH PARTITION p1; DROP TABLE p1;
		INSERT INTO outbox VALUES ('00000000-0000-4000-8000-000000000004', 'x', 'k4', 't', '4', 12)`
)

var fromPartitions = []string{
	"k1 1 id=00000000-0000-4000-8000-000000000001", "k2 2 id=00000000-0000-4000-8000-000000000002",
	"k3 3 id=00000000-0000-4000-8000-000000000003", "k4 4 id=00000000-0000-4000-8000-000000000004",
}

// Tables of every shape give the same records, whether walpost sees the rows as
// they come or only after all has happened.
func TestTables(t *testing.T) {
	brokers := envtest.Kafka(t).Addrs()
	for _, version := range envtest.Versions() {
		pg := postgres(t, version)
		for _, tc := range tableCases {
			for _, live := range []bool{true, false} {
				if tc.live && !live {
					continue
				}
				name := fmt.Sprintf("%s/%s/%s", pg.Version, tc.name, map[bool]string{true: "Live", false: "Backlog"}[live])
				t.Run(name, func(t *testing.T) {
					s := newStage(t, envtest.NewDatabaseOn(t, pg), brokers)
					if tc.before != "" {
						s.db.Exec(t, tc.before)
					}
					s.set(tc.settings...)
					var p *harness.Process
					if live {
						p = s.start("run")
						s.isReady(30 * time.Second)
					}
					for stmt := range strings.SplitSeq(tc.during, ";") {
						s.db.Exec(t, stmt)
					}
					if !live {
						p = s.start("run")
					}
					s.arrived(int64(len(tc.want)), 30*time.Second)
					s.stop(p)
					if got := s.records(); strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
						t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
					}
				})
			}
		}
	}
}

// records returns what is in the topic as text, in order by key.
func (s *stage) records() []string {
	s.t.Helper()
	var all []string
	err := harness.Consume(s.t.Context(), s.brokers, []string{s.topic}, func(r *kgo.Record, _ int32) {
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s", r.Key, orNull(r.Value))
		for _, h := range r.Headers {
			if h.Key == "walpost-lsn" {
				h.Value = []byte("LSN")
			}
			fmt.Fprintf(&b, " %s=%s", h.Key, orNull(h.Value))
		}
		all = append(all, b.String())
	})
	if err != nil {
		s.t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func orNull(b []byte) []byte {
	if b == nil {
		return []byte("<null>")
	}
	return bytes.ReplaceAll(b, []byte(" "), []byte("_"))
}
