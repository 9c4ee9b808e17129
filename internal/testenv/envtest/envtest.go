// Package envtest gives tests the servers of
// [github.com/walpost/walpost/internal/testenv].
//
// A package that uses shared servers hands them back in its TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }
package envtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/containers"
)

// RequireVariable makes a test fail, and not skip, that finds no server. So
// does CI.
const RequireVariable = "WALPOST_TEST_REQUIRE"

// engine runs the containers of all tests.
var engine containers.Docker

// The servers that the tests of this process share.
var (
	postgres = shared[*testenv.PostgresServer]{start: func(ctx context.Context) (*testenv.PostgresServer, error) {
		return testenv.StartPostgres(ctx, testenv.PostgresConfig{Engine: engine})
	}}
	kafka = shared[*testenv.KafkaServer]{start: func(ctx context.Context) (*testenv.KafkaServer, error) {
		return testenv.StartKafka(ctx, testenv.KafkaConfig{Engine: engine})
	}}
	mainRuns bool // set before any test runs
)

// VersionsVariable names the major versions of Postgres, separated by commas, that
// tests of every version run on. Without it these are what the first source has, and
// the newest.
const VersionsVariable = "WALPOST_TEST_VERSIONS"

// Versions returns them, as a [testenv.PostgresConfig] takes them.
func Versions() []string {
	if text := os.Getenv(VersionsVariable); text != "" {
		return strings.Split(text, ",")
	}
	return []string{"", "18"}
}

// Main runs the tests, then closes the shared servers, and returns the code to
// exit with, which is not zero if the tests leave goroutines behind.
func Main(m *testing.M, ignore ...goleak.Option) int {
	mainRuns = true
	code := m.Run()
	if err := errors.Join(postgres.close(), kafka.close()); err != nil {
		fmt.Fprintln(os.Stderr, "close the shared servers:", err)
		code = max(code, 1)
	}
	if code != 0 {
		return code
	}
	http.DefaultClient.CloseIdleConnections() // of a download
	if err := goleak.Find(ignore...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Postgres returns the Postgres that all tests of the process share. It must be
// left running. Slots belong to the whole server: see [Name].
func Postgres(t testing.TB) *testenv.PostgresServer { return postgres.get(t) }

// Kafka returns the real broker that all tests of the process share. It must be
// left running.
func Kafka(t testing.TB) *testenv.KafkaServer { return kafka.get(t) }

// NewPostgres starts a Postgres for one test, which may stop it. One that the
// environment names is not taken.
func NewPostgres(t testing.TB, cfg testenv.PostgresConfig) *testenv.PostgresServer {
	t.Helper()
	cfg.Engine = engine
	s, err := firstOwn(cfg.Source, postgresSources, func(source testenv.Source) (*testenv.PostgresServer, error) {
		cfg.Source = source
		return testenv.StartPostgres(t.Context(), cfg)
	})
	need(t, err)
	t.Cleanup(func() { closeServer(t, s) })
	return s
}

// NewStandby starts a standby of a primary of one test; see
// [testenv.PostgresServer.StartStandby].
func NewStandby(t testing.TB, primary *testenv.PostgresServer, settings map[string]string) *testenv.PostgresServer {
	t.Helper()
	s, err := primary.StartStandby(t.Context(), settings)
	need(t, err)
	t.Cleanup(func() { closeServer(t, s) })
	return s
}

// NewClone starts a copy of a server of one test; see
// [testenv.PostgresServer.StartClone].
func NewClone(t testing.TB, server *testenv.PostgresServer) *testenv.PostgresServer {
	t.Helper()
	s, err := server.StartClone(t.Context())
	need(t, err)
	t.Cleanup(func() { closeServer(t, s) })
	return s
}

// NewKafka starts a real broker for one test, which may stop it. One that the
// environment names is not taken.
func NewKafka(t testing.TB, cfg testenv.KafkaConfig) *testenv.KafkaServer {
	t.Helper()
	cfg.Engine = engine
	s, err := firstOwn(cfg.Source, kafkaSources, func(source testenv.Source) (*testenv.KafkaServer, error) {
		cfg.Source = source
		return testenv.StartKafka(t.Context(), cfg)
	})
	need(t, err)
	t.Cleanup(func() { closeServer(t, s) })
	return s
}

// FakeKafka starts a broker in this process for one test.
func FakeKafka(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	cluster, err := testenv.StartFakeKafka(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster
}

// The sources of servers that a test may stop.
var (
	postgresSources = []testenv.Source{testenv.Container, testenv.Programs, testenv.Embedded}
	kafkaSources    = []testenv.Source{testenv.Container, testenv.Programs}
)

// firstOwn calls start for each source, or for the only one that is asked for,
// until one is available.
func firstOwn[T any](only testenv.Source, sources []testenv.Source, start func(testenv.Source) (T, error)) (T, error) {
	if only != "" {
		return start(only)
	}
	var reasons error
	for _, source := range sources {
		s, err := start(source)
		if err == nil || !errors.Is(err, testenv.ErrUnavailable) {
			return s, err
		}
		reasons = errors.Join(reasons, err)
	}
	var none T
	return none, reasons
}

type server interface {
	comparable
	Close() error
	LogFile() string
}

// closeServer closes s, and shows the way to its log's end if the test failed.
func closeServer[T server](t testing.TB, s T) {
	t.Helper()
	if t.Failed() && s.LogFile() != "" {
		log, _ := os.ReadFile(s.LogFile()) // missing: nothing to show
		t.Logf("the server's log ends:\n%s", log[max(0, len(log)-2000):])
	}
	if err := s.Close(); err != nil {
		t.Errorf("close server: %v", err)
	}
}

// shared is a server that starts when the first test asks for it.
type shared[T server] struct {
	start func(context.Context) (T, error)
	once  sync.Once
	value T // set by once
	err   error
}

func (s *shared[T]) get(t testing.TB) T {
	t.Helper()
	if !mainRuns {
		t.Fatal("a shared server was asked for without envtest.Main in TestMain")
	}
	s.once.Do(func() { s.value, s.err = s.start(context.Background()) })
	need(t, s.err)
	return s.value
}

func (s *shared[T]) close() error {
	var none T
	if s.value == none {
		return nil
	}
	return s.value.Close()
}

// need skips the test if err says that there is no server, and fails it for any
// other error, or if a server is required.
func need(t testing.TB, err error) {
	t.Helper()
	switch {
	case err == nil:
	case errors.Is(err, testenv.ErrUnavailable) && !required():
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

func required() bool {
	return os.Getenv("CI") == "true" || os.Getenv(RequireVariable) == "1"
}

// Name returns a name that no other test has: it is legal for a slot, a
// database, a role and a topic.
func Name(t testing.TB) string {
	const length = 32
	name := strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') {
			return r
		}
		return '_'
	}, strings.ToLower(t.Name()))
	return name[:min(len(name), length)] + "_" + strings.ToLower(rand.Text()[:12])
}
