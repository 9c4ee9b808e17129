package pgsource

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// A running stream refuses the first row under a new name, and passes none over. With that name
// configured it goes on with it.
func TestRenamedOutbox(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	write(1, 10)
	r := start(t, newSource(t, cfg), cdc.Position{}, &run{})
	r.await(10)
	db.Exec(t, "ALTER TABLE outbox RENAME TO outbox2; INSERT INTO outbox2 VALUES (11, 'x')")
	var refused *cdc.RefusedError
	select {
	case err := <-r.ended:
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), `"public"."outbox" was renamed to "public"."outbox2"`) {
			t.Fatalf("Run() = %v, want a refusal that tells of the name", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the stream goes on")
	}
	rows, at := r.seen()
	if !slices.Equal(rows, numbers(1, 10)) {
		t.Errorf("got %v", rows)
	}
	_ = r.st.Close()
	cfg.Tables = []Table{{"public", "outbox2"}}
	r = start(t, newSource(t, cfg), cdc.Position{LSN: at}, &run{})
	if got := r.await(1); !slices.Equal(got, []string{"11"}) {
		t.Errorf("got %v, want 11", got)
	}
	r.stop()
}

// A new table in the place of the outbox is gone on with, whatever is deleted from the former one.
func TestReplacedOutbox(t *testing.T) {
	db := envtest.NewDatabase(t)
	cfg, _, write := outbox(t, db)
	write(1, 10)
	r := start(t, newSource(t, cfg), cdc.Position{}, &run{})
	r.await(10)
	db.Exec(t, "ALTER TABLE outbox RENAME TO former; ALTER TABLE former REPLICA IDENTITY FULL; CREATE TABLE outbox (n int, pad text); ALTER PUBLICATION p ADD TABLE outbox")
	db.Exec(t, "DELETE FROM former; INSERT INTO outbox VALUES (11, 'x')")
	if got := r.await(11); !slices.Equal(got, numbers(1, 11)) {
		t.Errorf("got %v", got)
	}
	r.stop()
}

// A backlog that was written under the former name is published under the new one's settings.
func TestBacklogOfRenamedOutbox(t *testing.T) {
	for name, above := range map[string]int64{"Streamed": 0, "Pulled": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			db := envtest.NewDatabase(t)
			cfg, _, write := outbox(t, db)
			cfg.PullAbove = above
			write(1, 3000)
			db.Exec(t, "ALTER TABLE outbox RENAME TO outbox2; INSERT INTO outbox2 VALUES (3001, 'x')")
			cfg.Tables = []Table{{"public", "outbox2"}}
			r := start(t, newSource(t, cfg), cdc.Position{}, &run{})
			if got := r.await(3001); !slices.Equal(got, numbers(1, 3001)) {
				t.Errorf("got %d rows, want 1 to 3001 in order", len(got))
			}
			r.stop()
		})
	}
}

// What a standby knows of the slot is not judged.
func TestOpenOnStandby(t *testing.T) {
	primary := envtest.NewPostgres(t, testenv.PostgresConfig{})
	db := envtest.NewDatabaseOn(t, primary)
	cfg, _, _ := outbox(t, db)
	standby := envtest.NewStandby(t, primary, nil)
	var err error
	if cfg.DSN, err = testenv.DatabaseDSN(standby.DSN(), db.Name); err != nil {
		t.Fatal(err)
	}
	_, err = newSource(t, cfg).Open(t.Context(), fromSlot)
	var refused *cdc.RefusedError
	if !errors.Is(err, errStandby) || errors.As(err, &refused) {
		t.Errorf("Open() = %v, want %v", err, errStandby)
	}
}
