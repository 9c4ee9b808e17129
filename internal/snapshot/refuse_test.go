package snapshot

import (
	"testing"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// What cannot go on is refused, with the way out.
func TestRefusals(t *testing.T) {
	t.Run("slot without a snapshot", func(t *testing.T) {
		f := newFixture(t)
		f.exec("SELECT pg_create_logical_replication_slot('" + f.slot + "', 'pgoutput')")
		_, err := f.open(f.source(), cdc.Position{})
		wantRefusal(t, err)
	})
	t.Run("setting taken away", func(t *testing.T) {
		f, at := begun(t)
		s := f.source()
		s.cfg.Initial = false
		_, err := f.open(s, at)
		wantRefusal(t, err)
	})
	t.Run("plan lost", func(t *testing.T) {
		f, at := begun(t)
		f.exec("DELETE FROM walpost.snapshot")
		_, err := f.open(f.source(), at)
		wantRefusal(t, err)
	})
	for name, change := range map[string]string{"rewritten": "VACUUM FULL outbox", "dropped": "ALTER TABLE outbox RENAME TO other; CREATE TABLE outbox (id text, n int); ALTER PUBLICATION walpost ADD TABLE outbox"} {
		t.Run("table "+name, func(t *testing.T) {
			f, at := begun(t)
			f.exec(change)
			st, err := f.open(f.source(), at)
			if err == nil {
				err = st.Run(t.Context(), &collector{})
			}
			wantRefusal(t, err)
		})
	}
	t.Run("order without an index", func(t *testing.T) {
		f := newFixture(t)
		s := f.source()
		s.cfg.OrderBy = "n"
		_, err := f.open(s, cdc.Position{})
		wantRefusal(t, err)
		if slot, err := pgsource.ReadSlot(t.Context(), f.conn, f.slot); slot != nil || err != nil {
			t.Errorf("a slot was made: %+v, %v", slot, err)
		}
		f.exec("CREATE INDEX ON outbox (n)")
		s = f.source()
		s.cfg.OrderBy = "n"
		if _, err = f.open(s, cdc.Position{}); err != nil {
			t.Errorf("with an index: %v", err)
		}
	})
	t.Run("purge", func(t *testing.T) {
		f, _ := begun(t)
		wantRefusal(t, CheckFinished(t.Context(), f.conn, f.slot))
		if err := finish(t.Context(), f.conn, f.slot); err != nil {
			t.Fatal(err)
		}
		if err := CheckFinished(t.Context(), f.conn, f.slot); err != nil {
			t.Error(err)
		}
	})
}
