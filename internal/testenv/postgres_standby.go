package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/jackc/pgx/v5"
)

// StandbySlot is the physical slot on the primary that [PostgresServer.StartStandby]
// makes for a standby, which may have one only.
const StandbySlot = "standby"

// StartStandby makes a standby of s from a copy of its files, for which s is stopped
// and started again, and waits until it answers. The password is the same. The settings
// are added to those of s. The caller must Close it. The error is an [ErrUnavailable]
// if s does not run from programs on this machine.
func (s *PostgresServer) StartStandby(ctx context.Context, settings map[string]string) (*PostgresServer, error) {
	if s.cluster == nil {
		return nil, fmt.Errorf("start a standby: %w: the primary does not run from programs of this machine", ErrUnavailable)
	}
	if err := s.exec(ctx, "SELECT pg_create_physical_replication_slot($1, true)", StandbySlot); err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	return s.startCopy(ctx, func(c cluster) error { return c.follow(s.port, settings) })
}

// StartClone makes a server of its own from a copy of the files of s, slots and checkpoints
// included, as a snapshot of the disk would: s is stopped for it and started again. The
// clone has the password of s. It waits until it answers. The caller must Close it. The
// error is an [ErrUnavailable] if s does not run from programs on this machine.
func (s *PostgresServer) StartClone(ctx context.Context) (*PostgresServer, error) {
	if s.cluster == nil {
		return nil, fmt.Errorf("start a clone: %w: the server does not run from programs of this machine", ErrUnavailable)
	}
	return s.startCopy(ctx, func(cluster) error { return nil })
}

// startCopy starts a server from a copy of the files of s, once it is prepared.
func (s *PostgresServer) startCopy(ctx context.Context, prepare func(cluster) error) (_ *PostgresServer, err error) {
	c := *s.cluster
	if c.dir, err = serverDir("", c.owner); err != nil {
		return nil, err
	}
	copied := &PostgresServer{
		Source: s.Source, logFile: c.path("postgres.log"), timeout: s.timeout, cluster: &c,
		launch: c.launch, remove: func(context.Context) error { return os.RemoveAll(c.dir) },
	}
	if err = s.copyTo(ctx, c); err == nil {
		err = prepare(c)
	}
	if err == nil {
		err = c.startAnywhere(ctx, copied)
	}
	if err != nil {
		return nil, errors.Join(err, copied.Close())
	}
	return copied, nil
}

// copyTo copies the data of s, which is stopped meanwhile.
func (s *PostgresServer) copyTo(ctx context.Context, c cluster) error {
	if err := s.Stop(ctx, Fast); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "cp", "-a", s.cluster.path("data"), c.path("data")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy the server: %w\n%s", err, out)
	}
	return s.Start(ctx)
}

// follow makes c a standby of the server at port.
func (c cluster) follow(port int, settings map[string]string) error {
	signal := c.path("data/standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		return err
	}
	if err := giveTo(c.owner, signal); err != nil {
		return err
	}
	all := map[string]string{
		"primary_conninfo":  fmt.Sprintf("host=127.0.0.1 port=%d user=%s password=%s dbname=%s", port, superuser, c.password, superuser),
		"primary_slot_name": StandbySlot, "hot_standby_feedback": "on",
	}
	for name, value := range settings {
		all[name] = value
	}
	return c.configure(c.path("data/postgresql.conf"), all)
}

func (s *PostgresServer) exec(ctx context.Context, query string, args ...any) error {
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, query, args...)
	return err
}
