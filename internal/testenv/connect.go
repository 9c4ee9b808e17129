package testenv

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// connectFiles are the project that names the artifacts of Kafka Connect and Debezium.
//
//go:embed connect
var connectFiles embed.FS

// The versions that StartConnect starts.
const (
	ConnectVersion  = "4.3.0"
	DebeziumVersion = "3.6.1.Final"
)

// ConnectConfig says how to run a connector of Debezium.
type ConnectConfig struct {
	// Brokers are the addresses of Kafka.
	Brokers []string

	// Worker are properties of the worker, added to and replacing the defaults:
	// String converters, a free port for REST, offsets in a file.
	Worker map[string]string

	// Connector are the connector's properties, with its name and class.
	Connector map[string]string

	// Others are more connectors of the same worker, each with a name of its own.
	Others []map[string]string

	// Offsets are what the worker knows of an earlier one: see ConnectServer.Offsets.
	Offsets []byte

	// Heap is the size of the JVM's heap; "" takes what Kafka's own script gives a worker,
	// 256 MiB to 2 GiB.
	Heap string

	// StartTimeout bounds the start, downloads aside. Defaults to 90s.
	StartTimeout time.Duration
}

// ConnectServer is a standalone worker of Kafka Connect. Its methods are for one goroutine
// at a time.
type ConnectServer struct {
	// Started is when the worker's process was started.
	Started time.Time

	cmd     *exec.Cmd
	process *process
	dir     string
	rest    int // port
	name    string
	others  []string // names
}

// StartConnect starts a worker and does not wait until it answers: see Wait. The caller
// must Close it. The error is an [ErrUnavailable] if this machine has no Java or Maven.
func StartConnect(ctx context.Context, cfg ConnectConfig) (*ConnectServer, error) {
	s, err := startConnect(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("start Kafka Connect: %w", err)
	}
	return s, nil
}

func startConnect(ctx context.Context, cfg ConnectConfig) (*ConnectServer, error) {
	d, err := prepareConnect(ctx)
	if err != nil {
		return nil, err
	}
	s := &ConnectServer{name: cmp.Or(cfg.Connector["name"], "outbox")}
	if s.rest, err = freePort(ctx); err != nil {
		return nil, err
	}
	if s.dir, err = serverDir("", nil); err != nil {
		return nil, err
	}
	if err := s.launch(ctx, d, cfg); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return s, nil
}

// prepareConnect fetches Kafka Connect and Debezium from their Maven artifacts, unless
// the cache has them.
func prepareConnect(ctx context.Context) (distribution, error) {
	java, maven, err := javaAndMaven()
	if err != nil {
		return distribution{}, err
	}
	dir, err := cached(ctx, "connect-"+ConnectVersion+"-"+DebeziumVersion, func(ctx context.Context, dir string) error {
		if err := errors.Join(os.CopyFS(dir, connectFiles), os.CopyFS(dir, kafkaFiles)); err != nil {
			return err
		}
		d := distribution{java: java, dir: dir}
		return d.run(ctx, maven, "-q", "-B", "-f", d.path("connect/pom.xml"), "dependency:build-classpath", "-Dmdep.outputFile="+d.path(classpathFile))
	})
	if err != nil {
		return distribution{}, err
	}
	d := distribution{java: java, dir: dir}
	if err := d.check(); err != nil {
		return distribution{}, fmt.Errorf("%w; remove %s to fetch it again", err, dir)
	}
	return d, nil
}

func (s *ConnectServer) launch(ctx context.Context, d distribution, cfg ConnectConfig) error {
	worker := map[string]string{
		"bootstrap.servers":            strings.Join(cfg.Brokers, ","),
		"key.converter":                "org.apache.kafka.connect.storage.StringConverter",
		"value.converter":              "org.apache.kafka.connect.storage.StringConverter",
		"offset.storage.file.filename": filepath.Join(s.dir, "offsets"),
		"listeners":                    "http://127.0.0.1:" + strconv.Itoa(s.rest),
		"plugin.discovery":             "service_load", // the fast way, which Debezium knows
	}
	maps.Copy(worker, cfg.Worker)
	connector := maps.Clone(cfg.Connector)
	connector["name"] = s.name
	files := map[string]map[string]string{"worker.properties": worker, "connector.properties": connector}
	paths := []string{filepath.Join(s.dir, "worker.properties"), filepath.Join(s.dir, "connector.properties")}
	for i, other := range cfg.Others {
		file := fmt.Sprintf("connector%d.properties", i+1)
		files[file] = other
		paths, s.others = append(paths, filepath.Join(s.dir, file)), append(s.others, other["name"])
	}
	for name, properties := range files {
		if err := writeProperties(filepath.Join(s.dir, name), properties); err != nil {
			return err
		}
	}
	if cfg.Offsets != nil {
		if err := os.WriteFile(worker["offset.storage.file.filename"], cfg.Offsets, 0o600); err != nil {
			return err
		}
	}
	classpath, err := os.ReadFile(d.path(classpathFile))
	if err != nil {
		return err
	}
	args := append([]string{
		"-Dlog4j2.configurationFile=" + d.path(logConfigFile), "-Dwalpost.log=" + s.LogFile(), "-cp", strings.TrimSpace(string(classpath)),
		"org.apache.kafka.connect.cli.ConnectStandalone",
	}, paths...)
	heap := []string{"-Xms256m", "-Xmx2g"}
	if cfg.Heap != "" {
		heap = []string{"-Xms" + cfg.Heap, "-Xmx" + cfg.Heap}
	}
	args = slices.Concat(heap, scriptOptions, args)
	log, err := openLog(s.LogFile())
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the worker has its own handle
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), d.java, args...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, log, log
	s.Started = time.Now()
	s.process, err = startProcess(s.cmd, nil, syscall.SIGKILL)
	return err
}

// PID is the worker's process.
func (s *ConnectServer) PID() int { return s.process.pid }

// LogFile is the path of the worker's log, which Close removes.
func (s *ConnectServer) LogFile() string { return filepath.Join(s.dir, "connect.log") }

// Offsets is the content of the worker's file of offsets, in Java's serialization.
func (s *ConnectServer) Offsets() ([]byte, error) {
	return os.ReadFile(filepath.Join(s.dir, "offsets"))
}

// Wait waits until the connectors' tasks run. A task that has failed is an error with
// its trace.
func (s *ConnectServer) Wait(ctx context.Context) error {
	for _, name := range append([]string{s.name}, s.others...) {
		if err := s.wait(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *ConnectServer) wait(ctx context.Context, name string) error {
	var failed error
	err := poll(ctx, func(ctx context.Context) error {
		if err := ended(s.process); err != nil {
			return err
		}
		state, err := s.StatusOf(ctx, name)
		if state == "FAILED" {
			failed = err
			return nil
		}
		return err
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("wait for the connector %s: %w; the log ends:\n%s", name, err, logTail(s.LogFile()))
	}
	return nil
}

// Status returns the state of the connector's task, and an error unless that is RUNNING.
func (s *ConnectServer) Status(ctx context.Context) (string, error) { return s.StatusOf(ctx, s.name) }

// StatusOf is Status for one of several connectors.
func (s *ConnectServer) StatusOf(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/connectors/%s/status", s.rest, name), nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	var status struct {
		Tasks []struct{ State, Trace string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return "", err
	}
	if len(status.Tasks) == 0 {
		return "", errors.New("the connector has no task yet")
	}
	if task := status.Tasks[0]; task.State != "RUNNING" {
		return task.State, fmt.Errorf("the connector's task is %s: %s", task.State, task.Trace)
	}
	return "RUNNING", nil
}

// Stop ends the worker in good order, and returns how much CPU it has used.
func (s *ConnectServer) Stop(ctx context.Context) (cpu time.Duration, err error) {
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		return 0, ignoreGone(err)
	}
	if err := waitEnd(ctx, s.process); err != nil {
		return 0, err
	}
	return s.cmd.ProcessState.UserTime() + s.cmd.ProcessState.SystemTime(), nil
}

// Close ends the worker and removes its files.
func (s *ConnectServer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return errors.Join(s.process.Kill(ctx), os.RemoveAll(s.dir))
}

// DebeziumOutbox returns the properties of a connector with Debezium's outbox event
// router, for a table public.outbox of that database. More are added to and replace them.
func DebeziumOutbox(db *pgx.ConnConfig, more map[string]string) map[string]string {
	all := map[string]string{
		"name":                        "outbox",
		"connector.class":             "io.debezium.connector.postgresql.PostgresConnector",
		"plugin.name":                 "pgoutput",
		"database.hostname":           db.Host,
		"database.port":               strconv.Itoa(int(db.Port)),
		"database.user":               db.User,
		"database.password":           db.Password,
		"database.dbname":             db.Database,
		"topic.prefix":                "dbz",
		"table.include.list":          "public.outbox",
		"publication.autocreate.mode": "disabled",
		"snapshot.mode":               "no_data",
		"transforms":                  "outbox",
		"transforms.outbox.type":      "io.debezium.transforms.outbox.EventRouter",
	}
	maps.Copy(all, more)
	return all
}
