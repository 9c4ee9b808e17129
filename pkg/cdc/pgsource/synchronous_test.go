package pgsource

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// A server whose synchronous_standby_names is * takes walpost for a synchronous standby: it is a warning, when the
// stream is opened and when it is set later, and not where only others are named.
func TestSynchronousStandby(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"synchronous_commit": "local"}}) // or the test itself would wait
	db := envtest.NewDatabaseOn(t, pg)
	cfg, log, write := outbox(t, db)
	cfg.StatusInterval = 50 * time.Millisecond
	src := newSource(t, cfg)
	r := start(t, src, cdc.Position{}, &run{})
	write(1, 1)
	r.await(1)
	const warning = "may take walpost for a synchronous standby"
	if strings.Contains(log.String(), warning) {
		t.Errorf("a warning without a reason:\n%s", log)
	}
	db.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = '*'")
	db.Exec(t, "SELECT pg_reload_conf()")
	conn := db.Connect(t)
	for state := ""; state != "sync"; time.Sleep(20 * time.Millisecond) { // what the server makes of it
		const query = "SELECT coalesce((SELECT sync_state FROM pg_stat_replication WHERE application_name = 'walpost'), '')"
		if err := conn.QueryRow(t.Context(), query).Scan(&state); err != nil {
			t.Fatal(err)
		}
	}
	r.stop()
	_ = r.st.Close()
	r = start(t, src, cdc.Position{}, &run{})
	r.stop()
	if n := strings.Count(log.String(), warning); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, log)
	}
}

func TestStandbyNames(t *testing.T) {
	for setting, want := range map[string][]string{
		"": nil, "*": {"*"}, "a, b": {"a", "b"}, "2 (a, b)": {"a", "b"}, "FIRST 1 (*)": {"*"}, `ANY 1 ("a,(b", "c""d",e)`: {"a,(b", `c"d`, "e"}, "walpost": {"walpost"},
	} {
		if got := standbyNames(setting); !slices.Equal(got, want) {
			t.Errorf("standbyNames(%q) = %q, want %q", setting, got, want)
		}
	}
}
