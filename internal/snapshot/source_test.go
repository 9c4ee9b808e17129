package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// What had not committed when the slot began is the stream's, and what had is the snapshot's,
// subtransactions included: also for a later process, which has the saved plan alone. The last
// transaction that has ended may have committed, or rolled back: the snapshot's xmin is beyond its
// xmax then.
func TestVisibleRowsOfSubtransactions(t *testing.T) {
	for _, version := range envtest.Versions() {
		server := envtest.Postgres(t)
		if version != "" {
			server = envtest.NewPostgres(t, testenv.PostgresConfig{Version: version})
		}
		for name, committed := range map[string]bool{"last committed": true, "last rolled back": false} {
			t.Run(strings.TrimSpace(version+" "+name), func(t *testing.T) {
				testSubtransactions(t, newFixtureIn(t, envtest.NewDatabaseOn(t, server)), committed)
			})
		}
	}
}

func testSubtransactions(t *testing.T, f *fixture, committed bool) {
	t.Helper()
	f.exec("INSERT INTO outbox VALUES ('before')")
	a, b, c := f.db.Connect(t), f.db.Connect(t), f.db.Connect(t)
	// The slot waits for a, and then for b, which began meanwhile; not for c.
	xa := f.write(a, "a")
	s := f.source()
	var st cdc.Stream
	var g errgroup.Group
	g.Go(func() (err error) {
		st, err = f.open(s, cdc.Position{})
		return err
	})
	f.awaited(xa)
	xb := f.write(b, "b")
	f.commit(a)
	f.awaited(xb)
	f.write(c, "c")
	var last []string
	if committed {
		f.exec("INSERT INTO outbox VALUES ('last')")
		last = []string{"last"}
	}
	f.commit(b)
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	f.commit(c)
	f.exec("INSERT INTO outbox VALUES ('after')")
	of := func(name string) []string { return []string{name, name + " sub", name + " sub sub"} }
	want := slices.Concat(of("a"), []string{"after"}, of("b"), []string{"before"}, of("c"), last)
	start := st.Start()
	if start.LSN != base {
		t.Errorf("Start() = %s, want %d", start.LSN, base)
	}
	if err := st.Close(); err != nil { // with it ends the exported snapshot
		t.Fatal(err)
	}
	if visible := s.plan.Visible; committed && len(visible.missing) < 3 {
		t.Errorf("snapshot %s lists %d transactions, want those of c", visible, len(visible.missing))
	}
	st, err := f.open(f.source(), start)
	if err != nil {
		t.Fatal(err)
	}
	got := f.collect(st, len(want))
	if !slices.Equal(got.ids, want) {
		t.Errorf("rows %q, want %q", got.ids, want)
	}
	if got.ends[0] != base+1 || got.ends[1] < maxPosition {
		t.Errorf("transactions end at %s, want the first at %d", got.ends, base+1)
	}
}

// A position in a snapshot goes on with the next chunk, and one at its end with the stream.
func TestResume(t *testing.T) {
	f := newFixture(t)
	f.exec("INSERT INTO outbox SELECT i || repeat('x', 1000) FROM generate_series(1, 10000) i")
	s := f.source()
	st, err := f.open(s, cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}
	at, total := st.Start(), s.plan.chunks()
	if total < 5 {
		t.Fatalf("%d chunks, want some", total)
	}
	all := f.collect(st, 10000)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if len(slices.Compact(slices.Clone(all.ids))) != 10000 {
		t.Errorf("%d rows of 10000", len(slices.Compact(all.ids)))
	}
	for _, change := range []string{
		"INSERT INTO outbox VALUES ('after')", "DELETE FROM outbox WHERE n % 2 = 0 AND id <> 'after'", "VACUUM outbox",
		"INSERT INTO outbox SELECT 'new' || i FROM generate_series(1, 100) i",
	} {
		f.exec(change)
	}
	at.LSN = cdc.LSN(base + total - 1)
	if st, err = f.open(f.source(), at); err != nil {
		t.Fatal(err)
	}
	rest := f.collect(st, 1)
	if len(rest.ids) == 0 || len(rest.ids) > 3000 || rest.ids[0] == "after" {
		t.Errorf("%d rows of the last chunk, %.20q first", len(rest.ids), rest.ids)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	at.LSN = cdc.LSN(base + total)
	if st, err = f.open(f.source(), at); err != nil {
		t.Fatal(err)
	}
	if got := f.collect(st, 101); got.ids[0] != "after" || len(got.ids) != 101 {
		t.Errorf("rows after the snapshot %q, want those of the stream", got.ids)
	}
}

// That all is handed over does not mean that it is published: a process that comes after one that
// was killed then goes on from the checkpoint, which is in the snapshot.
func TestHandedOverIsNotPublished(t *testing.T) {
	f := newFixture(t)
	f.exec("INSERT INTO outbox VALUES ('one')")
	s := f.source()
	st, err := f.open(s, cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}
	start, handed := st.Start(), st.Start()
	handed.LSN = s.plan.LSN
	f.collect(st, 1)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err = f.open(s, handed); err != nil { // the same process, on a new connection
		t.Fatal(err)
	}
	if got := f.collect(st, 0); len(got.ids) > 0 {
		t.Errorf("rows %q come again", got.ids)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	var refused *cdc.RefusedError
	if err := CheckFinished(t.Context(), f.conn, f.slot); !errors.As(err, &refused) {
		t.Errorf("CheckFinished() = %v before anything is confirmed, want a refusal", err)
	}
	if st, err = f.open(f.source(), start); err != nil {
		t.Fatal(err)
	}
	if got := f.collect(st, 1); !slices.Equal(got.ids, []string{"one"}) {
		t.Errorf("rows %q, want the snapshot's", got.ids)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err = f.open(s, handed); err != nil {
		t.Fatal(err)
	}
	st.Confirm(handed.LSN) // published and saved
	f.collect(st, 0)
	if err := CheckFinished(t.Context(), f.conn, f.slot); err != nil {
		t.Errorf("CheckFinished() = %v after all is confirmed", err)
	}
}

// Rows that the publication's filter leaves out are not published, as those of another shard.
func TestRowFilter(t *testing.T) {
	f := newFixture(t)
	f.exec("ALTER PUBLICATION walpost SET TABLE outbox WHERE (n % 2 = 0); INSERT INTO outbox SELECT 'row' || i FROM generate_series(1, 4) i")
	s := f.source()
	st, err := f.open(s, cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}
	f.exec("INSERT INTO outbox SELECT 'row' || i FROM generate_series(5, 8) i")
	if got := f.collect(st, 4); !slices.Equal(got.ids, []string{"row2", "row4", "row6", "row8"}) {
		t.Errorf("rows %q, want the even ones", got.ids)
	}
}

// Partitions are read through their table, by a role that may read no more, and one that has gone
// is refused.
func TestPartitions(t *testing.T) {
	for _, orderBy := range []string{"", "n"} {
		t.Run("by "+orderBy, func(t *testing.T) {
			f := newFixture(t)
			f.exec("DROP TABLE outbox; CREATE TABLE outbox (id text, n int) PARTITION BY RANGE (n); CREATE INDEX ON outbox (n); ALTER PUBLICATION walpost ADD TABLE outbox")
			for i := range 4 {
				f.exec(fmt.Sprintf("CREATE TABLE part%d PARTITION OF outbox FOR VALUES FROM (%d) TO (%d)", i, i*1000, i*1000+1000))
			}
			f.exec("CREATE TABLE rest PARTITION OF outbox DEFAULT; INSERT INTO outbox SELECT i || repeat('x', 1000), i FROM generate_series(1, 4999) i")
			role := envtest.Name(t)
			f.exec(fmt.Sprintf(`CREATE ROLE %[1]s LOGIN REPLICATION PASSWORD 'x'; GRANT USAGE ON SCHEMA walpost TO %[1]s; GRANT SELECT ON outbox TO %[1]s; GRANT SELECT, INSERT, UPDATE ON walpost.snapshot TO %[1]s`, role))
			t.Cleanup(func() {
				ctx := context.Background()
				conn, err := pgx.Connect(ctx, f.db.DSN)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.PgConn().Exec(ctx, "DROP OWNED BY "+role+"; DROP ROLE "+role).ReadAll(); err != nil {
					t.Error(err)
				}
				_ = conn.Close(ctx)
			})
			f.role = role
			s := f.source()
			s.cfg.OrderBy = orderBy
			st, err := f.open(s, cdc.Position{})
			if err != nil {
				t.Fatal(err)
			}
			start := st.Start()
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			s = f.source()
			s.cfg.OrderBy = orderBy
			if st, err = f.open(s, start); err != nil {
				t.Fatal(err)
			}
			got := f.collect(st, 4999)
			if n := len(slices.Compact(got.ids)); n != 4999 {
				t.Errorf("%d rows, want 4999", n)
			}
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			f.exec("DROP TABLE part3")
			if st, err = f.open(f.source(), start); err == nil {
				err = st.Run(t.Context(), &collector{})
			}
			var refused *cdc.RefusedError
			if !errors.As(err, &refused) {
				t.Errorf("a dropped partition: %v, want a refusal", err)
			}
		})
	}
}

// A slot whose plan was not saved is made again, and no other of that name is touched.
func TestPlanNotSaved(t *testing.T) {
	f := newFixture(t)
	f.exec("INSERT INTO outbox VALUES ('one')")
	if err := begin(t.Context(), f.conn, f.slot); err != nil {
		t.Fatal(err)
	}
	f.exec("SELECT pg_create_logical_replication_slot('" + f.slot + "', 'pgoutput')")
	f.exec("INSERT INTO outbox VALUES ('two')")
	s := f.source()
	var refused *cdc.RefusedError
	if _, err := f.open(s, cdc.Position{}); !errors.As(err, &refused) {
		t.Fatalf("Open() = %v for a slot that somebody has made, want a refusal", err)
	}
	slot, err := pgsource.ReadSlot(t.Context(), f.conn, f.slot)
	if err != nil || slot == nil {
		t.Fatalf("the slot is %v, %v", slot, err)
	}
	if err := noteSlot(t.Context(), f.conn, f.slot, slot.ConfirmedFlush); err != nil {
		t.Fatal(err)
	}
	if _, err := f.open(s, cdc.Position{}); err == nil || errors.As(err, &refused) {
		t.Fatalf("Open() = %v for one that was made here, want to be asked again", err)
	}
	st, err := f.open(s, cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.collect(st, 2).ids; !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("rows %q", got)
	}
}

// Columns that the publication leaves out are left out.
func TestColumnList(t *testing.T) {
	f := newFixture(t)
	f.exec("ALTER PUBLICATION walpost SET TABLE outbox (n); INSERT INTO outbox VALUES ('secret', 7)")
	st, err := f.open(f.source(), cdc.Position{})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.collect(st, 1).ids; !slices.Equal(got, []string{"7"}) {
		t.Errorf("first values %q, want that of the published column", got)
	}
}

// Stored generated columns come where the stream has them too: with the publication's option, or by
// a list of columns, from 18 on.
func TestGeneratedColumns(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: "18"})
	for name, tt := range map[string]struct{ set, row, streamed string }{
		"Option":  {"SET (publish_generated_columns = stored)", "ROW", "STREAMED"},
		"List":    {"SET TABLE outbox (up, n)", "ROW", "STREAMED"},
		"Neither": {"SET (publish = 'insert')", "row", "streamed"},
		"Left":    {"SET TABLE outbox (id)", "row", "streamed"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixtureIn(t, envtest.NewDatabaseOn(t, pg))
			f.exec("DROP TABLE outbox; CREATE TABLE outbox (up text GENERATED ALWAYS AS (upper(id)) STORED, id text, n serial, virtual text GENERATED ALWAYS AS (id) VIRTUAL)")
			f.exec("ALTER PUBLICATION walpost ADD TABLE outbox; ALTER PUBLICATION walpost " + tt.set)
			f.exec("INSERT INTO outbox (id) VALUES ('row')")
			st, err := f.open(f.source(), cdc.Position{})
			if err != nil {
				t.Fatal(err)
			}
			f.exec("INSERT INTO outbox (id) VALUES ('streamed')")
			want := []string{tt.row, tt.streamed}
			slices.Sort(want)
			if got := f.collect(st, 2).ids; !slices.Equal(got, want) {
				t.Errorf("first values %q, want %q", got, want)
			}
		})
	}
}

// A snapshot that goes on waits for no lock on another table of the publication.
func TestOtherTableLocked(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: "18"})
	f := newFixtureIn(t, envtest.NewDatabaseOn(t, pg))
	f.exec("DROP PUBLICATION walpost; CREATE PUBLICATION walpost FOR ALL TABLES; CREATE TABLE other (n int); INSERT INTO outbox VALUES ('one')")
	st, err := f.open(f.source(), cdc.Position{}) // which waits for who is writing
	if err != nil {
		t.Fatal(err)
	}
	f.exec("ALTER DATABASE " + f.db.Name + " SET lock_timeout = '1ms'")
	holder := f.db.Connect(t)
	if _, err := holder.PgConn().Exec(t.Context(), "BEGIN; LOCK TABLE other IN ACCESS EXCLUSIVE MODE").ReadAll(); err != nil {
		t.Fatal(err)
	}
	if got := f.collect(st, 1).ids; !slices.Equal(got, []string{"one"}) {
		t.Errorf("got %q, want one row", got)
	}
}
