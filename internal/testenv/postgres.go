package testenv

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresConfig says which Postgres to start, and how.
type PostgresConfig struct {
	// Version is the major version, as in "15". Defaults to whatever the
	// first source has: the newest of the installed ones, or of those that
	// can be downloaded.
	Version string

	// Source is the only source to try. Defaults to all, in their order.
	Source Source

	// Engine runs containers. Without one that source is left out.
	Engine Engine

	// Settings are lines of postgresql.conf, added to and replacing these
	// defaults: wal_level logical, 20 slots and senders, 100 connections, and
	// fsync off, which loses nothing when Postgres dies but may when the
	// machine does. ALTER SYSTEM goes before them.
	Settings map[string]string

	// Files are written into the data directory before the first start, for
	// the server alone to read: content by name. Those that are there, such as
	// pg_hba.conf, are replaced.
	Files map[string]string

	// Dir is for the server's data and log, and must be empty if it is
	// there. Close removes it. Defaults to a new temporary folder.
	Dir string

	// StartTimeout bounds each start, downloads aside. Defaults to 60s.
	StartTimeout time.Duration
}

// StopMode is how Postgres is asked to stop.
// https://www.postgresql.org/docs/current/server-shutdown.html
type StopMode syscall.Signal

// The ways to stop Postgres.
const (
	Smart     = StopMode(syscall.SIGTERM) // waits for every client to leave
	Fast      = StopMode(syscall.SIGINT)  // ends sessions, waits for senders
	Immediate = StopMode(syscall.SIGQUIT) // drops everything; recovers at the next start
)

// PostgresServer is a cluster of its own with a superuser named postgres. Its
// addresses stay the same over every stop and start. The methods that stop and
// start it are for one goroutine at a time; the others are for any.
type PostgresServer struct {
	Source  Source
	Version string // as server_version has it

	dsn       string
	socketDSN string
	port      int
	logFile   string
	timeout   time.Duration

	cluster *cluster                                   // nil unless it runs from programs of this machine
	launch  func(ctx context.Context) (Process, error) // nil for an external server
	remove  func(ctx context.Context) error
	process Process // nil while stopped
}

// superuser is the name of the superuser, and of the database to go with it.
const superuser = "postgres"

// StartPostgres starts a Postgres and waits until it answers. The caller must
// Close it. The error is an [ErrUnavailable] if this machine has none.
func StartPostgres(ctx context.Context, cfg PostgresConfig) (*PostgresServer, error) {
	cfg = cfg.withDefaults()
	sources := []Source{Environment, Container, Programs, Embedded}
	if cfg.Source != "" {
		sources = []Source{cfg.Source}
	}
	s, err := firstOf(sources, func(source Source) (*PostgresServer, error) {
		return startPostgresFrom(ctx, source, cfg)
	})
	if err != nil {
		return nil, fmt.Errorf("start Postgres %s: %w", cfg.Version, err)
	}
	return s, nil
}

func (c PostgresConfig) withDefaults() PostgresConfig {
	settings := map[string]string{
		"wal_level":             "logical",
		"max_replication_slots": "20",
		"max_wal_senders":       "20",
		"max_connections":       "100",
		"fsync":                 "off",
	}
	maps.Copy(settings, c.Settings)
	c.Settings = settings
	c.StartTimeout = cmp.Or(c.StartTimeout, time.Minute)
	return c
}

func startPostgresFrom(ctx context.Context, source Source, cfg PostgresConfig) (*PostgresServer, error) {
	switch source {
	case Environment:
		return externalPostgres(ctx, cfg)
	case Container:
		return containerPostgres(ctx, cfg)
	case Programs:
		bin, err := findPostgres(ctx, cfg.Version)
		if err != nil {
			return nil, err
		}
		return localPostgres(ctx, source, bin, cfg)
	case Embedded:
		bin, err := embeddedPostgres(ctx, cfg.Version)
		if err != nil {
			return nil, err
		}
		return localPostgres(ctx, source, bin, cfg)
	}
	return nil, fmt.Errorf("unknown source %q", source)
}

// externalPostgres takes the server that the environment names.
func externalPostgres(ctx context.Context, cfg PostgresConfig) (*PostgresServer, error) {
	dsn := os.Getenv(PostgresVariable)
	if dsn == "" {
		return nil, fmt.Errorf("%w: %s is not set", ErrUnavailable, PostgresVariable)
	}
	s := &PostgresServer{Source: Environment, dsn: dsn}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	if err := s.ask(ctx); err != nil {
		return nil, fmt.Errorf("connect to the server of %s: %w", PostgresVariable, err)
	}
	if major, _, _ := strings.Cut(s.Version, "."); cfg.Version != "" && major != cfg.Version {
		return nil, fmt.Errorf("%w: the server of %s is version %s", ErrUnavailable, PostgresVariable, s.Version)
	}
	return s, nil
}

// DSN is the superuser's way to the server over TCP.
func (s *PostgresServer) DSN() string { return s.dsn }

// SocketDSN is the superuser's way over a Unix socket, on which any role is let
// in without a password. It is "" for a container and an external server.
func (s *PostgresServer) SocketDSN() string { return s.socketDSN }

// DatabaseDSN returns dsn with another database.
func DatabaseDSN(dsn, database string) (string, error) {
	if !strings.Contains(dsn, "://") {
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(database)
		return dsn + " dbname='" + quoted + "'", nil // the last one counts
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", errors.New("parse DSN: not a URL") // the error itself would show the password
	}
	u.Path = "/" + database
	return u.String(), nil
}

// PID is the process of a server that runs from programs of this machine, or 0.
func (s *PostgresServer) PID() int { return pidOf(s.process) }

// LogFile is the path of the server's log, or "".
func (s *PostgresServer) LogFile() string { return s.logFile }

// Stop stops the server in that mode, and waits until it has ended or ctx is
// done. It does nothing if the server is stopped.
func (s *PostgresServer) Stop(ctx context.Context, mode StopMode) error {
	return s.end(func(p Process) error {
		if err := p.Signal(syscall.Signal(mode)); err != nil {
			return ignoreGone(err)
		}
		return waitEnd(ctx, p)
	})
}

// Kill ends the server and all its sessions as kill -9 does.
func (s *PostgresServer) Kill(ctx context.Context) error {
	return s.end(func(p Process) error { return p.Kill(ctx) })
}

func (s *PostgresServer) end(stop func(Process) error) error {
	if s.launch == nil {
		return fmt.Errorf("stop Postgres: %w", ErrExternal)
	}
	if s.process == nil {
		return nil
	}
	if err := stop(s.process); err != nil {
		return fmt.Errorf("stop Postgres: %w", err)
	}
	s.process = nil
	return nil
}

// Start starts the stopped server on its data and addresses, and waits until it
// answers. It does nothing if the server runs.
func (s *PostgresServer) Start(ctx context.Context) error {
	if s.launch == nil {
		return fmt.Errorf("start Postgres: %w", ErrExternal)
	}
	if s.process != nil && ended(s.process) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := poll(ctx, func(ctx context.Context) error { return portFree(ctx, s.port) }); err != nil {
		return fmt.Errorf("start Postgres on port %d: %w", s.port, err)
	}
	return s.startOnce(ctx)
}

// Restart stops the server in that mode and starts it again.
func (s *PostgresServer) Restart(ctx context.Context, mode StopMode) error {
	if err := s.Stop(ctx, mode); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Close ends the server and removes its files. An external server is left
// alone.
func (s *PostgresServer) Close() error {
	if s.launch == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return errors.Join(s.Kill(ctx), s.remove(ctx))
}

const (
	closeTimeout = 30 * time.Second // bounds the end of a server that is closed
	askTimeout   = 5 * time.Second  // bounds one try to connect
)

// startOnce launches the server and waits until it answers. If it does not, it
// is ended.
func (s *PostgresServer) startOnce(ctx context.Context) error {
	p, err := s.launch(ctx)
	if err != nil {
		return err
	}
	err = poll(ctx, func(ctx context.Context) error {
		if err := ended(p); err != nil {
			return err
		}
		return s.ask(ctx)
	})
	if err != nil {
		kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		return errors.Join(fmt.Errorf("wait for Postgres: %w; its log ends:\n%s", err, logTail(s.logFile)), p.Kill(kctx))
	}
	s.process = p
	return nil
}

// ask connects, and learns the server's version the first time.
func (s *PostgresServer) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	if s.Version == "" {
		s.Version, _, _ = strings.Cut(conn.PgConn().ParameterStatus("server_version"), " ")
	}
	return conn.Close(ctx)
}

// tcpDSN returns the superuser's DSN over TCP.
func tcpDSN(host string, port int, password string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(superuser, password),
		Host: host + ":" + strconv.Itoa(port), Path: "/" + superuser, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// newPassword returns a password for the superuser. The port is open to every
// user of the machine, and a superuser can run programs.
func newPassword() string { return rand.Text() }
