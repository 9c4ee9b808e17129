package testenv

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// own returns a Postgres of the test's own, closed after it. It checks that
// nothing is left then.
func own(t *testing.T, cfg PostgresConfig) *PostgresServer {
	t.Helper()
	t.Setenv(PostgresVariable, "")
	start := time.Now()
	s, err := StartPostgres(t.Context(), cfg)
	need(t, err)
	t.Logf("Postgres %s (%s): started in %v", s.Version, s.Source, time.Since(start).Round(time.Millisecond))
	pid := s.process.(*process).pid
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if alive(pid) {
			t.Errorf("process %d outlived Close", pid)
		}
		if _, err := os.Stat(s.LogFile()); !os.IsNotExist(err) {
			t.Errorf("Close left %s behind: %v", s.LogFile(), err)
		}
	})
	return s
}

// query returns the one value that sql selects.
func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // the test has its answer
	var value string
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func execute(t *testing.T, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // the test has its answer
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestPostgresLife(t *testing.T) {
	for name, cfg := range map[string]PostgresConfig{
		"installed 15": {Source: Programs, Version: "15"},
		"embedded 18":  {Source: Embedded, Version: "18"},
	} {
		t.Run(name, func(t *testing.T) {
			s := own(t, cfg)
			if got := query(t, s.DSN(), "SELECT version()"); !strings.HasPrefix(got, "PostgreSQL "+cfg.Version+".") {
				t.Errorf("version() = %q, want PostgreSQL %s", got, cfg.Version)
			}
			if got := query(t, s.SocketDSN(), "SHOW wal_level"); got != "logical" {
				t.Errorf("wal_level over the socket = %q, want logical", got)
			}
			execute(t, s.DSN(), "CREATE TABLE kept (n int)")
			for _, again := range []struct {
				name string
				do   func(context.Context) error
			}{
				{"smart restart", func(ctx context.Context) error { return s.Restart(ctx, Smart) }},
				{"fast restart", func(ctx context.Context) error { return s.Restart(ctx, Fast) }},
				{"immediate restart", func(ctx context.Context) error { return s.Restart(ctx, Immediate) }},
				{"kill and start", func(ctx context.Context) error { return errors.Join(s.Kill(ctx), s.Start(ctx)) }},
			} {
				execute(t, s.DSN(), "INSERT INTO kept VALUES (1)")
				start := time.Now()
				if err := again.do(t.Context()); err != nil {
					t.Fatalf("%s: %v", again.name, err)
				}
				t.Logf("%s: %v", again.name, time.Since(start).Round(time.Millisecond))
			}
			if got := query(t, s.DSN(), "SELECT count(*)::text FROM kept"); got != "4" {
				t.Errorf("rows after the restarts: got %s, want 4", got)
			}
		})
	}
}

func TestPostgresKillEndsSessions(t *testing.T) {
	s := own(t, PostgresConfig{})
	session, err := pgx.Connect(t.Context(), s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(context.Background()) //nolint:errcheck // its server is gone
	backend := int(session.PgConn().PID())
	family, err := children(t.Context(), s.process.(*process).pid)
	if err != nil || len(family) < 4 {
		t.Fatalf("children = %v, %v; want the backend and its like", family, err)
	}
	if err := s.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(family, backend) {
		if alive(pid) {
			t.Errorf("process %d outlived Kill", pid)
		}
	}
}

func TestPostgresStopTwice(t *testing.T) {
	s := own(t, PostgresConfig{})
	for range 2 {
		if err := s.Stop(t.Context(), Fast); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pgx.Connect(t.Context(), s.DSN()); err == nil {
		t.Fatal("the server answers after Stop")
	}
	for range 2 {
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	query(t, s.DSN(), "SELECT '1'")
}

func TestPostgresSettings(t *testing.T) {
	s := own(t, PostgresConfig{Settings: map[string]string{"wal_level": "replica", "cluster_name": `it's a \ test`}})
	for name, want := range map[string]string{
		"wal_level": "replica", "cluster_name": `it's a \ test`, "max_wal_senders": "20",
		"listen_addresses": "127.0.0.1", "fsync": "off",
	} {
		if got := query(t, s.DSN(), "SHOW "+name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	execute(t, s.DSN(), "ALTER SYSTEM SET wal_level = 'logical'")
	if err := s.Restart(t.Context(), Fast); err != nil {
		t.Fatal(err)
	}
	if got := query(t, s.DSN(), "SHOW wal_level"); got != "logical" {
		t.Errorf("wal_level after ALTER SYSTEM = %q, want logical", got)
	}
}

func TestPostgresPassword(t *testing.T) {
	s := own(t, PostgresConfig{})
	cfg, err := pgx.ParseConfig(s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Password = "guessed"
	if _, err := pgx.ConnectConfig(t.Context(), cfg); err == nil {
		t.Error("a wrong password was let in over TCP")
	}
}

func TestPostgresDir(t *testing.T) {
	dir := tempDir(nil) + "/walpost-test-dir"
	s := own(t, PostgresConfig{Dir: dir})
	if !strings.HasPrefix(s.LogFile(), dir) {
		t.Errorf("log is %s, want it below %s", s.LogFile(), dir)
	}
	_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir, Source: s.Source})
	if err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a second server in the folder: got %v, want an error", err)
	}
	query(t, s.DSN(), "SELECT '1'") // and the first is still there
}

func TestPostgresBadSetting(t *testing.T) {
	dir := tempDir(nil) + "/walpost-test-bad"
	_, err := StartPostgres(t.Context(), PostgresConfig{Dir: dir, Settings: map[string]string{"no_such_setting": "1"}})
	if errors.Is(err, ErrUnavailable) {
		need(t, err)
	}
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("got %v, want the log's word about no_such_setting", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder was left behind: %v", err)
	}
}

func TestPostgresPortTaken(t *testing.T) {
	s := own(t, PostgresConfig{})
	if err := s.Stop(t.Context(), Fast); err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", address(s.port))
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() { started <- s.Start(t.Context()) }()
	select {
	case err := <-started:
		t.Fatalf("Start returned with the port taken: %v", err)
	case <-time.After(10 * pollInterval):
	}
	if err := errors.Join(l.Close(), <-started); err != nil {
		t.Fatalf("Start with the port free again: %v", err)
	}
}

func TestPostgresExternal(t *testing.T) {
	s := own(t, PostgresConfig{})
	t.Setenv(PostgresVariable, s.DSN())
	external, err := StartPostgres(t.Context(), PostgresConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if external.Source != Environment || external.Version != s.Version {
		t.Errorf("got version %s from the %s, want %s from the environment", external.Version, external.Source, s.Version)
	}
	for name, err := range map[string]error{
		"Stop":  external.Stop(t.Context(), Fast),
		"Kill":  external.Kill(t.Context()),
		"Start": external.Start(t.Context()),
	} {
		if !errors.Is(err, ErrExternal) {
			t.Errorf("%s: got %v, want ErrExternal", name, err)
		}
	}
	if err := external.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	query(t, s.DSN(), "SELECT '1'") // Close left it alone
}

func TestPostgresUnavailable(t *testing.T) {
	t.Setenv(PostgresVariable, "")
	for name, cfg := range map[string]PostgresConfig{
		"no such version": {Version: "3"},
		"no engine":       {Source: Container},
		"no address":      {Source: Environment},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := StartPostgres(t.Context(), cfg); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
		})
	}
}

func TestDatabaseDSN(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://u:p@h:1/postgres?sslmode=disable": "o'd b",
		"postgres:///postgres?host=%2Ftmp&port=1":     "other",
		"host=h port=1 user=u dbname=postgres":        `o'd \b`,
	} {
		got, err := DatabaseDSN(dsn, want)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := pgx.ParseConfig(got)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Database != want || cfg.Port != 1 {
			t.Errorf("%s: got database %q on port %d, want %q on 1", dsn, cfg.Database, cfg.Port, want)
		}
	}
}

func TestParseRelease(t *testing.T) {
	for line, want := range map[string]release{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-1)": {15, 18},
		"postgres (PostgreSQL) 18.3":                   {18, 3},
	} {
		if got, err := parseRelease(line); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", line, got, err, want)
		}
	}
	for _, line := range []string{"", "postgres (PostgreSQL) 19beta1", "postgres (PostgreSQL) 15", "a b"} {
		if got, err := parseRelease(line); err == nil {
			t.Errorf("%q: got %v, want an error", line, got)
		}
	}
	if (release{15, 9}).compare(release{15, 18}) >= 0 {
		t.Error("15.9 is not older than 15.18")
	}
}

func TestSignalAfterEnd(t *testing.T) {
	s := own(t, PostgresConfig{})
	p := s.process
	if err := s.Stop(t.Context(), Immediate); err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, errExited) {
		t.Errorf("Signal after the end: got %v, want errExited", err)
	}
}
