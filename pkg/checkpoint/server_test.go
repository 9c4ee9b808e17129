package checkpoint

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Server tests have a database of their own each.
var serverTests = map[string]func(t *testing.T, db envtest.Database){
	"LoadConnectsAnew":     testLoadConnectsAnew,
	"Postgres":             testPostgres,
	"PostgresCreatesTable": testPostgresCreatesTable,
	"PostgresErrors":       testPostgresErrors,
	"PostgresReconnects":   testPostgresReconnects,
	"PostgresRights":       testPostgresRights,
	"PostgresEarlier":      testPostgresEarlier,
	"PostgresDatestyle":    testPostgresDatestyle,
	"PostgresRowLocked":    testPostgresRowLocked,
	"PostgresFrozen":       testPostgresFrozen,
	"PostgresSettings":     testPostgresSettings,
	"PostgresSlots":        testPostgresSlots,
	"Slot":                 testSlot,
	"SlotClosed":           testSlotClosed,
	"Witnessed":            testWitnessed,
	"WitnessedGoesOn":      testWitnessedGoesOn,
	"WitnessedLost":        testWitnessedLost,
}

// TestServers runs them on an old Postgres and on the newest.
func TestServers(t *testing.T) {
	for _, version := range []string{"15", "18"} {
		t.Run(version, func(t *testing.T) {
			server := envtest.NewPostgres(t, testenv.PostgresConfig{Version: version})
			for name, test := range serverTests {
				t.Run(name, func(t *testing.T) { test(t, envtest.NewDatabaseOn(t, server)) })
			}
		})
	}
}

func query[T any](t *testing.T, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func openPostgres(t *testing.T, dsn, slot string) *Postgres {
	t.Helper()
	p, err := NewPostgres(PostgresConfig{DSN: dsn, Slot: slot, Owner: "test/1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func at(lsn cdc.LSN) cdc.Position { return cdc.Position{SystemID: 7, Timeline: 1, LSN: lsn} }

// mustAcquire is for tests of what comes after.
func mustAcquire(t *testing.T, s cdc.Store) cdc.Checkpoint {
	t.Helper()
	cp, err := s.Acquire(t.Context())
	if err != nil {
		t.Fatalf("Acquire() = %v", err)
	}
	return cp
}
