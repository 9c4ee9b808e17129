package pgsource

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// An update of an outbox row is logged, or stops the stream behind what was committed before it.
// One in another table is nothing.
func TestUpdate(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		t.Run(map[bool]string{false: "warn", true: "stop"}[refuse], func(t *testing.T) {
			db := envtest.NewDatabase(t)
			cfg, log, write := outbox(t, db)
			cfg.RefuseUpdates = refuse
			db.Exec(t, "ALTER TABLE outbox REPLICA IDENTITY FULL; ALTER TABLE other REPLICA IDENTITY FULL; ALTER PUBLICATION p ADD TABLE other")
			r := start(t, newSource(t, cfg), cdc.Position{}, &run{})
			db.Exec(t, "INSERT INTO other VALUES (1, 'x')")
			db.Exec(t, "UPDATE other SET pad = 'y'")
			write(1, 2)
			r.await(2)
			db.Exec(t, "UPDATE outbox SET pad = 'y' WHERE n = 1")
			write(3, 3)
			if !refuse {
				r.await(3)
				if !strings.Contains(log.String(), "was updated") {
					t.Errorf("not logged: %s", log)
				}
				return
			}
			select {
			case err := <-r.ended:
				var refused *cdc.RefusedError
				if !errors.As(err, &refused) || !strings.Contains(refused.Hint, "outbox.update") {
					t.Errorf("Run() = %v, want a refusal with a hint", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("the stream goes on")
			}
			if rows, _ := r.seen(); len(rows) != 2 {
				t.Errorf("rows %q, want those before the update", rows)
			}
		})
	}
}
