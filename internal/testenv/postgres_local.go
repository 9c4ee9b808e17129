package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// cluster is a Postgres data directory and the programs for it.
type cluster struct {
	bin      string // folder of the programs
	dir      string // data, sockets and log are below
	owner    *syscall.Credential
	password string
}

// maxSocketPath is the length of a socket's path that every system takes.
const maxSocketPath = 100

// localPostgres makes a cluster and starts it with the programs in bin.
func localPostgres(ctx context.Context, source Source, bin string, cfg PostgresConfig) (_ *PostgresServer, err error) {
	owner, err := serverUser()
	if err != nil {
		return nil, err
	}
	dir, err := serverDir(cfg.Dir, owner)
	if err != nil {
		return nil, err
	}
	c := cluster{bin: bin, dir: dir, owner: owner, password: newPassword()}
	s := &PostgresServer{
		Source: source, logFile: c.path("postgres.log"), timeout: cfg.StartTimeout, cluster: &c,
		launch: c.launch, remove: func(context.Context) error { return os.RemoveAll(dir) },
	}
	if err = c.init(ctx, cfg); err == nil {
		err = c.startAnywhere(ctx, s)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (c cluster) path(name string) string { return filepath.Join(c.dir, name) }

// init makes the data directory.
func (c cluster) init(ctx context.Context, cfg PostgresConfig) error {
	if len(c.path(".s.PGSQL.12345")) > maxSocketPath {
		return fmt.Errorf("folder %s: the path is too long for a socket", c.dir)
	}
	passwords := c.path("password")
	if err := os.WriteFile(passwords, []byte(c.password), 0o600); err != nil {
		return err
	}
	if err := giveTo(c.owner, passwords); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "initdb"),
		"--pgdata="+c.path("data"), "--username="+superuser, "--pwfile="+passwords,
		"--auth-host=scram-sha-256", "--auth-local=trust", // the folder of the socket is closed to others
		"--encoding=UTF8", "--locale=C", "--no-sync")
	cmd.Dir, cmd.Env = c.dir, serverEnviron()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.owner}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w\n%s", cmd.Path, err, out)
	}
	return errors.Join(os.Remove(passwords), c.configure(c.path("data/postgresql.conf"), cfg.Settings), c.writeFiles(cfg.Files))
}

// writeFiles writes files into the data directory.
func (c cluster) writeFiles(files map[string]string) error {
	for name, content := range files {
		path := filepath.Join(c.path("data"), name)
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), giveTo(c.owner, path)); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	return nil
}

// configure adds settings to the file, whose last lines count.
func (c cluster) configure(path string, settings map[string]string) (err error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.WriteString(confLines(settings) + confLines(map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": c.dir,
	}))
	return err
}

// confLines formats settings as lines of postgresql.conf.
func confLines(settings map[string]string) string {
	var b strings.Builder
	for name, value := range settings {
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value)
		fmt.Fprintf(&b, "%s = '%s'\n", name, quoted)
	}
	return b.String()
}

// startAnywhere starts s on a free port, and on another one when somebody else
// was faster to listen on it.
func (c cluster) startAnywhere(ctx context.Context, s *PostgresServer) error {
	const tries = 5
	var err error
	for range tries {
		if s.port, err = freePort(ctx); err != nil {
			return err
		}
		s.dsn = tcpDSN("127.0.0.1", s.port, c.password)
		s.socketDSN = c.socketDSN(s.port)
		if err = c.configure(c.path("data/postgresql.conf"), map[string]string{"port": strconv.Itoa(s.port)}); err != nil {
			return err
		}
		if err = s.Start(ctx); err == nil || !portTaken(ctx, s.port) {
			return err
		}
	}
	return err
}

func (c cluster) socketDSN(port int) string {
	query := url.Values{"host": {c.dir}, "port": {strconv.Itoa(port)}, "user": {superuser}}
	return "postgres:///" + superuser + "?" + query.Encode()
}

// launch starts postgres itself, not pg_ctl, so that it is our child. If we die
// it shuts down fast.
func (c cluster) launch(ctx context.Context) (Process, error) {
	log, err := openLog(c.path("postgres.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() //nolint:errcheck // the server has its own handle
	cmd := exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(c.bin, "postgres"), "-D", c.path("data"))
	cmd.Dir, cmd.Env = c.dir, serverEnviron()
	cmd.Stdout, cmd.Stderr = log, log
	return startProcess(cmd, c.owner, syscall.SIGINT)
}

// serverEnviron is the environment without what would change the server's
// settings.
func serverEnviron() []string {
	var env []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "PG") && !strings.HasPrefix(variable, "LC_") {
			env = append(env, variable)
		}
	}
	return append(env, "LC_ALL=C")
}
