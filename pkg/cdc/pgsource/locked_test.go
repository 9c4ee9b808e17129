package pgsource

import (
	"slices"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// What looks at the publication and at tables waits for no lock on one of them, as a VACUUM FULL
// or an ALTER TABLE holds for as long as it lasts: not at the opening, not in the stream.
func TestLockedTables(t *testing.T) {
	publications := map[string]string{
		"Root": "FOR TABLE outbox", "ViaRoot": "FOR TABLE outbox WITH (publish_via_partition_root = true)",
		"AllTables": "FOR ALL TABLES", "AllTablesViaRoot": "FOR ALL TABLES WITH (publish_via_partition_root = true)",
	}
	for _, version := range envtest.Versions() {
		pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: version})
		for name, publication := range publications {
			t.Run(pg.Version+"/"+name, func(t *testing.T) {
				db := envtest.NewDatabaseOn(t, pg)
				db.Exec(t, root+"CREATE TABLE other (n int, pad text); CREATE PUBLICATION p "+publication)
				checkLocked(t, db, "p1, other")
			})
		}
	}
}

// The filter of a table that is locked cannot be printed, and nothing waits for that.
func TestLockedTableWithRowFilter(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: "18"})
	db := envtest.NewDatabaseOn(t, pg)
	db.Exec(t, root+"CREATE PUBLICATION p FOR TABLE outbox, p1 WHERE (n < 5), p2 WHERE (n > 10)")
	checkLocked(t, db, "p1")
}

// checkLocked opens a stream while others have tables for themselves, and has it look at the
// publication, at a partition, and at a table that is none.
func checkLocked(t *testing.T, db envtest.Database, tables string) {
	t.Helper()
	slot := envtest.Name(t)
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput'); CREATE TABLE seen (n int, pad text)")
	db.Exec(t, "ALTER DATABASE "+db.Name+" SET lock_timeout = '1ms'") // who waits for a lock fails
	holder := db.Connect(t)
	if _, err := holder.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(t.Context(), "LOCK TABLE ONLY "+tables+" IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	src := newSource(t, Config{
		DSN: db.DSN, Slot: slot, Publication: "p", Tables: []Table{{"public", "outbox"}}, Columns: []string{"n", "pad"},
		StatusInterval: 20 * time.Millisecond, // every sixth look is one at the publication too
	})
	r := start(t, src, cdc.Position{}, &run{})
	db.Exec(t, "INSERT INTO outbox VALUES (11, 'x'); INSERT INTO seen VALUES (1, 'x'); INSERT INTO outbox VALUES (12, 'x')")
	if got := r.await(2); !slices.Equal(got, []string{"11", "12"}) {
		t.Errorf("got %v, want 11 and 12", got)
	}
	control := db.Connect(t)
	if _, err := src.checkPublication(t.Context(), control); err != nil {
		t.Errorf("checkPublication() = %v", err)
	}
	r.stop()
}
