package sqlfiles

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
)

// testPeriods has bounds in UTC, and weeks that begin on Monday, whatever the session's time
// zone is and whether its clocks change.
func testPeriods(t *testing.T, server *testenv.PostgresServer) {
	conn := envtest.NewDatabaseOn(t, server).Connect(t)
	apply(t, conn, Names{}, Partitions)
	if _, err := conn.Exec(t.Context(), "SET timezone = 'America/New_York'"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		period, at string
		ahead      int
		want       string
	}{
		{"day", "2026-11-27T00:00:00Z", 0, "2026-11-27T00:00:00Z"},
		{"day", "2026-11-27T23:59:59Z", 0, "2026-11-27T00:00:00Z"},
		{"day", "2026-11-27T23:59:59-05:00", 0, "2026-11-28T00:00:00Z"},
		{"day", "2026-10-31T12:00:00Z", 2, "2026-11-02T00:00:00Z"}, // clocks go back on November 1
		{"day", "2026-03-07T12:00:00Z", 2, "2026-03-09T00:00:00Z"}, // and ahead on March 8
		{"day", "2026-12-31T12:00:00Z", 1, "2027-01-01T00:00:00Z"},
		{"day", "2028-02-28T12:00:00Z", 1, "2028-02-29T00:00:00Z"},
		{"week", "2026-11-27T12:00:00Z", 0, "2026-11-23T00:00:00Z"},
		{"week", "2026-11-29T23:59:59Z", 0, "2026-11-23T00:00:00Z"}, // a Sunday
		{"week", "2026-11-30T00:00:00Z", 0, "2026-11-30T00:00:00Z"},
		{"week", "2026-11-29T23:00:00-05:00", 0, "2026-11-30T00:00:00Z"},
		{"week", "2026-10-28T12:00:00Z", 1, "2026-11-02T00:00:00Z"},
		{"week", "2027-01-01T12:00:00Z", 0, "2026-12-28T00:00:00Z"},
		{"week", "2026-12-28T00:00:00Z", 3, "2027-01-18T00:00:00Z"},
	} {
		var got time.Time
		if err := conn.QueryRow(t.Context(), "SELECT walpost.partition_start($1, $2::text::timestamptz, $3)", tt.period, tt.at, tt.ahead).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got.UTC().Format(time.RFC3339) != tt.want {
			t.Errorf("%s of %s, %d ahead: %s, want %s", tt.period, tt.at, tt.ahead, got.UTC().Format(time.RFC3339), tt.want)
		}
	}
}

// testPartitions makes partitioned tables, twice: the second time changes nothing.
func testPartitions(t *testing.T, server *testenv.PostgresServer) {
	for _, period := range []string{"day", "week"} {
		conn := envtest.NewDatabaseOn(t, server).Connect(t)
		names := Names{Partitioned: period, Tables: []pgx.Identifier{{"public", "outbox"}, {"public", `odd "Näme"`}}}
		files := []string{Outbox, Publication, Checkpoint, Partitions}
		apply(t, conn, names, files...)
		got := read(t, conn, catalog)
		for _, want := range []string{
			"p outbox identity d", "Partitions by " + period, "publication walpost f t f f f t", "constraint outbox PRIMARY KEY (id, created_at)",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("catalog lacks %q:\n%s", want, got)
			}
		}
		const gaps = `SELECT format('%s: %s, gaps %s, first %s, first name %s, odd ones %s', count(*), min(upper - lower), count(*) FILTER (WHERE lower <> before),
				min(lower) = date_trunc('PERIOD', now(), 'UTC'), min(part::text) = 'outbox_p' || to_char(min(lower) AT TIME ZONE 'UTC', 'YYYYMMDD'),
				(SELECT count(*) FROM walpost.partitions('"odd ""Näme"""')))
			FROM (SELECT *, lag(upper, 1, lower) OVER (ORDER BY lower) AS before FROM walpost.partitions('outbox')) p`
		want := map[string]string{
			"day":  "8: 1 day, gaps 0, first t, first name t, odd ones 8",
			"week": "8: 7 days, gaps 0, first t, first name t, odd ones 8",
		}[period]
		if got := read(t, conn, strings.ReplaceAll(gaps, "PERIOD", period)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		apply(t, conn, names, files...)
		if again := read(t, conn, catalog); again != got {
			t.Errorf("catalog after the second time:\n%s\nwant no change:\n%s", again, got)
		}
	}
}

// testPartitionsRefused has the role call the functions, and do nothing but what they are
// for.
func testPartitionsRefused(t *testing.T, server *testenv.PostgresServer) {
	db, role := envtest.NewDatabaseOn(t, server), envtest.Name(t)
	conn := db.Connect(t)
	apply(t, conn, Names{Partitioned: "day", Role: role}, Outbox, Publication, Checkpoint, Partitions, Role)
	defer forget(t, conn, role)
	for _, sql := range []string{
		`CREATE TABLE outbox_old PARTITION OF outbox FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00')`,
		`CREATE TABLE other (id int, at timestamptz) PARTITION BY RANGE (at)`,
		`CREATE TABLE other_old PARTITION OF other FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')`,
		`CREATE TABLE plain (id int)`,
		`SET ROLE ` + role,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for _, tt := range []struct{ sql, err string }{
		{"DROP TABLE outbox_old", "42501"},
		{"ALTER TABLE outbox DETACH PARTITION outbox_old", "42501"},
		{"SELECT walpost.make_partitions('other')", "42809"},
		{"SELECT walpost.make_partitions('plain')", "42809"},
		{"SELECT walpost.detach_partition('other', 'other_old')", "42809"},
		{"SELECT walpost.detach_partition('outbox', 'other_old')", "42809"},
		{"SELECT walpost.detach_partition('outbox', 'plain')", "42809"},
		{"SELECT walpost.detach_partition('outbox', (SELECT part FROM walpost.partitions('outbox') WHERE upper > now() LIMIT 1))", "42809"},
		{"SELECT walpost.drop_partition('outbox', 'outbox_old')", "42809"},
		{"SELECT walpost.drop_partition('outbox', 'plain')", "42809"},
		{"COMMENT ON TABLE plain IS 'Detached from public.outbox by walpost, which drops it'", "42501"},
		{"SELECT walpost.make_partitions('outbox')", ""},
		{"SELECT walpost.detach_partition('outbox', 'outbox_old')", ""},
		{"SELECT walpost.drop_partition('outbox', 'outbox_old')", ""},
	} {
		_, err := conn.Exec(t.Context(), tt.sql)
		if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
			t.Errorf("%s: %v, want %q", tt.sql, err, tt.err)
		}
	}
	if _, err := conn.Exec(t.Context(), "RESET ROLE"); err != nil {
		t.Fatal(err)
	}
}

// testPartitionsForeignSchema has the schema belong to who would get more rights by it.
func testPartitionsForeignSchema(t *testing.T, server *testenv.PostgresServer) {
	db, role := envtest.NewDatabaseOn(t, server), envtest.Name(t)
	conn := db.Connect(t)
	db.Exec(t, "CREATE ROLE "+role+"; CREATE SCHEMA walpost AUTHORIZATION "+role)
	defer forget(t, conn, role)
	steps, err := Render(Names{}, Partitions)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.PgConn().Exec(t.Context(), steps[0].SQL).ReadAll()
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || !strings.Contains(pgErr.Message, "belongs to role "+role) {
		t.Fatalf("%v, want it to say whose schema it is", err)
	}
	db.Exec(t, pgErr.Hint)
	apply(t, conn, Names{}, Partitions)
}
