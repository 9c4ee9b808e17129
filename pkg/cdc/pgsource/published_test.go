package pgsource

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
)

// What is published, by the catalogs, is what the server's own view lists.
func TestPublishedAsTheServerSays(t *testing.T) {
	const tables = `CREATE SCHEMA s; CREATE TABLE plain (n int, pad text, more text); CREATE UNLOGGED TABLE unlogged (n int); CREATE TABLE parent (n int); CREATE TABLE child () INHERITS (parent);
		CREATE TABLE root (n int, pad text) PARTITION BY RANGE (n); CREATE TABLE r1 PARTITION OF root FOR VALUES FROM (0) TO (10);
		CREATE TABLE s.r2 PARTITION OF root FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (n); CREATE TABLE r21 PARTITION OF s.r2 FOR VALUES FROM (10) TO (15);
		CREATE TABLE s.r22 PARTITION OF s.r2 FOR VALUES FROM (15) TO (20); CREATE VIEW v AS SELECT 1 AS n; CREATE TABLE s.other (n int);`
	publications := []string{
		"", "FOR ALL TABLES", "FOR TABLE plain", "FOR TABLE ONLY parent", "FOR TABLE parent", "FOR TABLE root", "FOR TABLE s.r2", "FOR TABLE r1, r21", "FOR TABLE s.r2, plain",
	}
	from15 := []string{
		"FOR TABLES IN SCHEMA s", "FOR TABLES IN SCHEMA public", "FOR TABLES IN SCHEMA s, TABLE plain", "FOR TABLES IN SCHEMA public, s",
		"FOR TABLE plain (n, more) WHERE (n > 5), r1 WHERE (n > 2)", "FOR TABLES IN SCHEMA public, TABLE plain WHERE (n > 5), s.other WHERE (n > 5)",
	}
	const listed = `SELECT c.oid::regclass::text || coalesce(' filtered' || left(to_jsonb(t)->>'rowfilter', 0), '')
		FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename WHERE t.pubname = $1`
	const published = `WITH RECURSIVE leaf AS (SELECT oid FROM pg_class WHERE relkind = 'r' AND oid >= 16384),` + Published + `
		SELECT DISTINCT via::regclass::text || CASE WHEN filter IS NULL THEN '' ELSE ' filtered' END FROM published`
	for _, version := range envtest.Versions() {
		db := envtest.NewDatabaseOn(t, envtest.NewPostgres(t, testenv.PostgresConfig{Version: version}))
		db.Exec(t, tables)
		conn := db.Connect(t)
		number, err := serverVersion(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		all := publications
		if number >= 150000 {
			all = slices.Concat(all, from15)
		}
		ask := func(query string) []string {
			t.Helper()
			rows, err := conn.Query(t.Context(), query, "p")
			if err != nil {
				t.Fatal(err)
			}
			names, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(names)
			return slices.Compact(names)
		}
		for _, what := range all {
			for _, via := range []string{"false", "true"} {
				db.Exec(t, "DROP PUBLICATION IF EXISTS p; CREATE PUBLICATION p "+what+" WITH (publish_via_partition_root = "+via+")")
				if got, want := ask(published), ask(listed); !slices.Equal(got, want) {
					t.Errorf("%d, CREATE PUBLICATION %s, via the root %s: got %q, want %q", number, what, via, got, want)
				}
			}
		}
	}
}
