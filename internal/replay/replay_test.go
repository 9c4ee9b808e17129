package replay

import (
	"os"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv/envtest"
	sqlfiles "github.com/walpost/walpost/sql"
	"github.com/walpost/walpost/test/harness"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }

// A new replay removes those that were finished more than 30 days ago, with their checkpoints, and
// nothing else; without the right to it they stay, and the replay is begun all the same.
func TestFinishedAreForgotten(t *testing.T) {
	db := envtest.NewDatabase(t)
	conn := db.Connect(t)
	harness.Tables(t, conn)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	want := func(want ...string) {
		t.Helper()
		for _, query := range []string{
			"SELECT id FROM walpost.replay WHERE id <> 'new' ORDER BY 1",
			"SELECT substr(slot, 8) FROM walpost.checkpoint WHERE slot LIKE 'replay/%' ORDER BY 1",
		} {
			rows, _ := conn.Query(t.Context(), query) // CollectRows tells
			got, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: got %v, want %v: %v", query, got, want, err)
			}
		}
	}
	exec(`INSERT INTO walpost.replay SELECT id, 's', 'b', '0/1', '0/2', '{}', now() - interval '90 days', now() - ago
		FROM (VALUES ('old', interval '31 days'), ('recent', interval '29 days'), ('unfinished', NULL)) AS v (id, ago)`)
	exec(`INSERT INTO walpost.checkpoint (slot, epoch, owner, acquired_at) SELECT s, 1, 'o', now() - interval '31 days' FROM unnest('{s,replay/old,replay/recent,replay/unfinished}'::text[]) s`)
	name := envtest.Name(t)
	role := pgx.Identifier{name}.Sanitize()
	exec("CREATE ROLE " + role + "; GRANT USAGE ON SCHEMA walpost TO " + role + "; GRANT SELECT, INSERT, UPDATE ON walpost.replay, walpost.checkpoint TO " + role)
	defer func() { exec("RESET ROLE; DROP OWNED BY " + role + "; DROP ROLE " + role) }()

	exec("SET ROLE " + role)
	if err := (Plan{ID: "new", Slot: "s", From: 1, To: 2}).Save(t.Context(), conn); err != nil {
		t.Error(err)
	}
	want("old", "recent", "unfinished")

	exec("RESET ROLE; DELETE FROM walpost.replay WHERE id = 'new'")
	steps, err := sqlfiles.Render(sqlfiles.Names{Role: name}, sqlfiles.Role)
	if err != nil {
		t.Fatal(err)
	}
	exec(steps[0].SQL)
	exec("SET ROLE " + role)
	if err := (Plan{ID: "new", Slot: "s", From: 1, To: 2}).Save(t.Context(), conn); err != nil {
		t.Error(err)
	}
	want("recent", "unfinished")
	exec("RESET ROLE")
	var live int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM walpost.checkpoint WHERE slot = 's'").Scan(&live); err != nil || live != 1 {
		t.Errorf("%d checkpoints of the stream, want 1: %v", live, err)
	}
}
