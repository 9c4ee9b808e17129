package harness

import (
	"testing"

	"github.com/jackc/pgx/v5"

	sqlfiles "github.com/walpost/walpost/sql"
)

// Tables makes walpost's own tables in conn's database, as walpost init does.
func Tables(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	steps, err := sqlfiles.Render(sqlfiles.Names{}, sqlfiles.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		if _, err := conn.PgConn().Exec(t.Context(), step.SQL).ReadAll(); err != nil {
			t.Fatalf("%s: %v", step.File, err)
		}
	}
}
