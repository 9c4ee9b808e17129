package sqlfiles

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
)

// rows are what the tables may hold, by the first state that has such and the last one.
var rows = []struct {
	first, last int
	sql         string
}{
	{1, current, `INSERT INTO walpost.checkpoint (slot, epoch, owner, acquired_at) VALUES ('new', 1, 'host/1', '2026-01-01')`},
	{1, current, `INSERT INTO walpost.checkpoint (slot, epoch, owner, acquired_at, system_id, timeline, lsn, saved_at)
		VALUES ('saved', 7, 'host/2', '2026-01-01', 18446744073709551615, 3, '16/B374D848', '2026-01-02')`},
	{2, 2, `UPDATE walpost.checkpoint SET partial_commit_lsn = '16/B374D900', partial_rows = 5 WHERE slot = 'saved'`},
	{3, current, `UPDATE walpost.checkpoint SET partial_commit_lsn = '16/B374D900', partial_rows = 5, partial_last_id = 'e5' WHERE slot = 'saved'`},
	{4, current, `INSERT INTO walpost.checkpoint_log VALUES ('saved', '2026-01-01', '16/1', '16/2', '777')`},
	{4, current, `INSERT INTO walpost.replay VALUES ('r1', 'saved', 'b1', '16/1', '16/2', '{"rate": 5}', '2026-01-01', NULL)`},
	{5, current, `INSERT INTO walpost.snapshot VALUES ('saved', '2026-01-01', '16/1', '10:20:10,14', '[]', '2026-01-02')`},
	{5, current, `INSERT INTO walpost.snapshot (slot) VALUES ('new')`},
	{6, current, `INSERT INTO walpost.snapshot (slot, lsn) VALUES ('made', '16/1')`},
}

// current is the last state in testdata, which is what the files make now.
const current = 7

// applyFile applies a file of testdata with the defaults.
func applyFile(t *testing.T, conn *pgx.Conn, name string, edits ...string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	step, err := render(name, strings.NewReplacer(edits...).Replace(string(data)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.PgConn().Exec(t.Context(), step.SQL).ReadAll(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// fill puts rows into the tables of a state.
func fill(t *testing.T, conn *pgx.Conn, state int) {
	t.Helper()
	for _, r := range rows {
		if state < r.first || state > r.last {
			continue
		}
		if _, err := conn.Exec(t.Context(), r.sql); err != nil {
			t.Fatalf("%s: %v", r.sql, err)
		}
	}
}

// contents are all rows of the tables that are there.
func contents(t *testing.T, conn *pgx.Conn) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, table := range []string{"checkpoint", "checkpoint_log", "replay", "snapshot"} {
		if read(t, conn, "SELECT (to_regclass('walpost."+table+"') IS NOT NULL)::text") == "false" {
			continue
		}
		found, err := conn.Query(t.Context(), "SELECT '"+table+"' AS in_table, to_jsonb(t) - 'slot' AS row, coalesce(to_jsonb(t) ->> 'slot', '') AS slot FROM walpost."+table+" t ORDER BY 1, 3")
		if err != nil {
			t.Fatal(err)
		}
		each, err := pgx.CollectRows(found, pgx.RowToMap)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, each...)
	}
	return all
}

// testUpgrades has each state that walpost has ever made, with rows in it and its role, become
// what a database has that never was another one.
func testUpgrades(t *testing.T, server *testenv.PostgresServer) {
	role := envtest.Name(t)
	names, files := Names{Role: role}, []string{Checkpoint, Partitions, Role, Emit}
	fresh := envtest.NewDatabaseOn(t, server).Connect(t)
	apply(t, fresh, names, files...)
	want := read(t, fresh, catalog)
	for state := 1; state <= current; state++ {
		t.Run(strconv.Itoa(state), func(t *testing.T) {
			conn := envtest.NewDatabaseOn(t, server).Connect(t)
			functions := 1 + state/current
			applyFile(t, conn, fmt.Sprintf("003_checkpoint.%d.sql", state))
			applyFile(t, conn, fmt.Sprintf("004_partitions.%d.sql", functions))
			applyFile(t, conn, fmt.Sprintf("007_emit.%d.sql", functions))
			apply(t, conn, names, Role)
			fill(t, conn, state)
			wantVersions(t, conn, state < current)
			before := contents(t, conn)

			for range 2 {
				apply(t, conn, names, files...)
				if got := read(t, conn, catalog); got != want {
					t.Errorf("catalog:\n%s\nwant that of a new one:\n%s", got, want)
				}
			}
			wantVersions(t, conn, false)
			wantKept(t, before, contents(t, conn), state)
			if _, err := conn.Exec(t.Context(), "DROP OWNED BY "+role); err != nil {
				t.Fatal(err)
			}
		})
	}
	forget(t, fresh, role)
}

func wantVersions(t *testing.T, conn *pgx.Conn, older bool) {
	t.Helper()
	versions, err := Versions(t.Context(), conn)
	if err != nil || len(versions) != len(known) {
		t.Fatalf("Versions() = %v, %v, want %d", versions, err, len(known))
	}
	for _, v := range versions {
		if v.Older() != older || !older && v.Made != v.Known {
			t.Errorf("%s; want older %t", v, older)
		}
	}
}

// wantKept sees that each value is still there. Only a position of the second state that lies
// in a transaction does not say behind which row, and becomes that before the transaction.
func wantKept(t *testing.T, before, after []map[string]any, state int) {
	t.Helper()
	if len(before) == 0 || len(before) != len(after) {
		t.Fatalf("%d rows have become %d", len(before), len(after))
	}
	for i, b := range before {
		was, is := b["row"].(map[string]any), after[i]["row"].(map[string]any)
		if after[i]["slot"] != b["slot"] || after[i]["in_table"] != b["in_table"] {
			t.Fatalf("row %d: %v has become %v", i, b, after[i])
		}
		for column, v := range was {
			if state == 2 && strings.HasPrefix(column, "partial_") {
				v = nil
			}
			if fmt.Sprint(is[column]) != fmt.Sprint(v) {
				t.Errorf("%s of slot %s: %s was %v, is %v", b["in_table"], b["slot"], column, v, is[column])
			}
		}
	}
}

// testReplacesFunctions has functions of an earlier version that were wrong, and may be called
// by the role all the same afterwards.
func testReplacesFunctions(t *testing.T, server *testenv.PostgresServer) {
	role := envtest.Name(t)
	names, files := Names{Role: role}, []string{Checkpoint, Partitions, Role, Emit}
	fresh, conn := envtest.NewDatabaseOn(t, server).Connect(t), envtest.NewDatabaseOn(t, server).Connect(t)
	apply(t, fresh, names, files...)
	applyFile(t, conn, "004_partitions.1.sql", "IF NOT EXISTS (SELECT FROM walpost.partitions(parent)", "IF EXISTS (SELECT FROM walpost.partitions(parent)", "SET lock_timeout = '5s'", "")
	applyFile(t, conn, "007_emit.1.sql", "SET search_path = pg_catalog", "", "$4)::text", "$3)::text")
	apply(t, conn, names, files...)
	if got, want := read(t, conn, catalog), read(t, fresh, catalog); got != want {
		t.Errorf("catalog:\n%s\nwant that of a new one:\n%s", got, want)
	}
	if _, err := conn.Exec(t.Context(), "DROP OWNED BY "+role); err != nil {
		t.Fatal(err)
	}
	forget(t, fresh, role)
}

// refusal returns the error of a file.
func refusal(t *testing.T, conn *pgx.Conn, names Names, file string) *pgconn.PgError {
	t.Helper()
	steps, err := Render(names, file)
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.PgConn().Exec(t.Context(), steps[0].SQL).ReadAll()
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		t.Fatalf("%s: %v, want it refused", file, err)
	}
	return pgErr
}

// testNewerRefused leaves alone what a later walpost has made.
func testNewerRefused(t *testing.T, server *testenv.PostgresServer) {
	conn := envtest.NewDatabaseOn(t, server).Connect(t)
	apply(t, conn, Names{}, Checkpoint, Partitions, Emit)
	for file, object := range map[string]string{
		Checkpoint: "TABLE walpost.checkpoint", Partitions: "FUNCTION walpost.drop_partition", Emit: "FUNCTION walpost.emit",
	} {
		if _, err := conn.Exec(t.Context(), "COMMENT ON "+object+" IS 'Of version 99'"); err != nil {
			t.Fatal(err)
		}
		want := read(t, conn, catalog)
		if err := refusal(t, conn, Names{}, file); !strings.Contains(err.Message, "of version 99, and this walpost knows version 1 at most") || !strings.Contains(err.Hint, "walpost init of the walpost that has made") {
			t.Errorf("%s: %v, hint %q", file, err, err.Hint)
		}
		if got := read(t, conn, catalog); got != want {
			t.Errorf("%s changed the catalog:\n%s\nwant:\n%s", file, got, want)
		}
	}
}

// testCurrentNeedsNoRight applies the files once more as a role that owns nothing.
func testCurrentNeedsNoRight(t *testing.T, server *testenv.PostgresServer) {
	conn, role := envtest.NewDatabaseOn(t, server).Connect(t), envtest.Name(t)
	names := Names{Role: role}
	apply(t, conn, names, Checkpoint, Partitions, Emit, Role)
	if _, err := conn.Exec(t.Context(), "SET ROLE "+role); err != nil {
		t.Fatal(err)
	}
	apply(t, conn, names, Checkpoint, Partitions, Emit)
	if _, err := conn.Exec(t.Context(), "RESET ROLE"); err != nil {
		t.Fatal(err)
	}
	forget(t, conn, role)
}

// testFunctionsForeign has one of the functions belong to who would get more rights by it.
func testFunctionsForeign(t *testing.T, server *testenv.PostgresServer) {
	db, role := envtest.NewDatabaseOn(t, server), envtest.Name(t)
	conn := db.Connect(t)
	applyFile(t, conn, "004_partitions.1.sql")
	db.Exec(t, "CREATE ROLE "+role+"; GRANT CREATE ON SCHEMA walpost TO "+role+"; ALTER FUNCTION walpost.partitions OWNER TO "+role)
	defer forget(t, conn, role)
	if err := refusal(t, conn, Names{}, Partitions); !strings.Contains(err.Message, "belongs to role "+role) || !strings.Contains(err.Hint, "ALTER FUNCTION walpost.partitions(regclass) OWNER TO") {
		t.Errorf("%v, hint %q, want whose function it is", err, err.Hint)
	}
}

// testEmitKeepsPrefix does not let an upgrade change what prefix events are written with.
func testEmitKeepsPrefix(t *testing.T, server *testenv.PostgresServer) {
	conn := envtest.NewDatabaseOn(t, server).Connect(t)
	applyFile(t, conn, "007_emit.1.sql")
	if err := refusal(t, conn, Names{Prefix: "it's"}, Emit); !strings.Contains(err.Message, "another prefix than 'it''s'") || !strings.Contains(err.Hint, "messages.prefix") {
		t.Errorf("%v, hint %q", err, err.Hint)
	}
	apply(t, conn, Names{}, Emit)
}
