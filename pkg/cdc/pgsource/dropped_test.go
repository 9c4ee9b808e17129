package pgsource

import (
	"slices"
	"strings"
	"testing"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// Of a table that was dropped before its rows were read nothing tells whose it was. It is none of
// an outbox without partitions, whatever its columns, where the publication has all tables: a copy of
// the outbox, or what pg_repack makes. Else it is one of an outbox, with a warning.
func TestDroppedTableLikeTheOutbox(t *testing.T) {
	const copied = "INSERT INTO outbox VALUES (1, 'x'); CREATE TABLE copy AS SELECT n + 100 AS n, pad FROM outbox; DROP TABLE copy; INSERT INTO outbox VALUES (2, 'x')"
	tests := []struct {
		name, outbox, sql, warning string
		listed                     bool // the publication has a list, and nothing has seen the table
		want                       []string
	}{
		{
			name: "Plain", outbox: "CREATE TABLE outbox (n int, pad text)", sql: copied,
			want: numbers(1, 2), warning: "no outbox table has partitions",
		},
		{
			name: "Partitioned", outbox: root, sql: "INSERT INTO outbox VALUES (1, 'x'), (11, 'x'); DROP TABLE p2; INSERT INTO outbox VALUES (2, 'x')",
			want: []string{"1", "11", "2"}, warning: "taken for a partition",
		},
		{
			name: "PartitionedNoMore", outbox: root,
			sql: `INSERT INTO outbox VALUES (1, 'x'), (11, 'x'); ALTER TABLE outbox RENAME TO former; CREATE TABLE outbox (n int, pad text);
				DROP TABLE former; INSERT INTO outbox VALUES (2, 'x')`,
			want: []string{"1", "11", "2"}, warning: "taken for a partition",
		},
		{
			name: "PartitionedNoMoreAndListed", outbox: root, listed: true,
			sql: `INSERT INTO outbox VALUES (1, 'x'), (11, 'x'); ALTER TABLE outbox RENAME TO former; CREATE TABLE outbox (n int, pad text);
				ALTER PUBLICATION p ADD TABLE outbox; DROP TABLE former; INSERT INTO outbox VALUES (2, 'x')`,
			want: []string{"1", "11", "2"}, warning: "taken for a partition",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			db := envtest.NewDatabase(t)
			cfg, log, _ := outbox(t, db)
			db.Exec(t, "DROP TABLE outbox; DROP PUBLICATION p; "+tt.outbox)
			tables := "ALL TABLES"
			if tt.listed {
				tables = "TABLE outbox"
			}
			db.Exec(t, "CREATE PUBLICATION p FOR "+tables+"; SELECT pg_drop_replication_slot('"+cfg.Slot+"')")
			db.Exec(t, "SELECT pg_create_logical_replication_slot('"+cfg.Slot+"', 'pgoutput')")
			cfg.PullAbove = 0
			src := newSource(t, cfg)
			if !tt.listed { // it has seen the table once
				st, err := src.Open(t.Context(), fromSlot)
				if err == nil {
					err = st.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			for sql := range strings.SplitSeq(tt.sql, ";") {
				db.Exec(t, sql)
			}
			r := start(t, src, cdc.Position{}, &run{})
			if got := r.await(len(tt.want)); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			r.stop()
			if !strings.Contains(log.String(), tt.warning) {
				t.Errorf("log without %q:\n%s", tt.warning, log)
			}
		})
	}
}
