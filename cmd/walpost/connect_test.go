package main

import (
	"testing"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

// The limits of role and database are lifted, those that the DSN asks for are not, and a
// lock_timeout is neither.
func TestConnectLiftsLimits(t *testing.T) {
	db := envtest.NewDatabase(t)
	for _, limit := range []string{"statement_timeout = '1s'", "idle_session_timeout = '1s'", "lock_timeout = '2s'"} {
		db.Exec(t, "ALTER DATABASE "+db.Name+" SET "+limit)
	}
	for name, tt := range map[string]struct{ dsn, want string }{
		"Database": {db.DSN, "0 0 2s"},
		"DSN":      {db.DSN + "&statement_timeout=5s", "5s 0 2s"},
		"Options":  {db.DSN + "&options=-cidle_session_timeout%3D7s", "0 7s 2s"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := connect(t.Context(), tt.dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer closeConn(t.Context(), conn)
			var got string
			const query = "SELECT concat_ws(' ', current_setting('statement_timeout'), current_setting('idle_session_timeout'), current_setting('lock_timeout'))"
			if err := conn.QueryRow(t.Context(), query).Scan(&got); err != nil || got != tt.want {
				t.Errorf("statement, idle session and lock: %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}
