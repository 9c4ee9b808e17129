// Package docker tries the containers of internal/testenv on a real engine.
package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"go.uber.org/goleak"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/containers"
)

// variable asks for these tests: the engine must have the images, or a way to
// them.
const variable = "WALPOST_TEST_CONTAINERS"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// step is a change of a server's state, and its data must outlive it.
type step struct {
	name string
	do   func(context.Context) error
}

func (s step) run(t *testing.T) {
	t.Helper()
	start := time.Now()
	if err := s.do(t.Context()); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	t.Logf("%s: %v", s.name, time.Since(start).Round(time.Millisecond))
}

func wanted(t *testing.T) {
	t.Helper()
	if os.Getenv(variable) != "1" {
		t.Skipf("%s is not 1", variable)
	}
	t.Setenv(testenv.PostgresVariable, "")
	t.Setenv(testenv.KafkaVariable, "")
}

func TestPostgres(t *testing.T) {
	wanted(t)
	var s *testenv.PostgresServer
	step{"start", func(ctx context.Context) (err error) {
		s, err = testenv.StartPostgres(ctx, testenv.PostgresConfig{
			Source: testenv.Container, Engine: containers.Docker{},
			Settings: map[string]string{"cluster_name": `it's a \ test`},
		})
		return err
	}}.run(t)
	closed := closeAfter(t, s)
	if s.Source != testenv.Container || !strings.HasPrefix(s.Version, "18") {
		t.Errorf("got Postgres %s from %s, want 18 from a container", s.Version, s.Source)
	}
	for name, want := range map[string]string{"wal_level": "logical", "max_wal_senders": "20", "cluster_name": `it's a \ test`} {
		if got := query(t, s, "SHOW "+name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	checkGuess(t, s)
	query(t, s, "SELECT pg_create_logical_replication_slot('kept', 'pgoutput')::text")
	for _, again := range []step{
		{"fast restart", func(ctx context.Context) error { return s.Restart(ctx, testenv.Fast) }},
		{"immediate restart", func(ctx context.Context) error { return s.Restart(ctx, testenv.Immediate) }},
		{"kill and start", func(ctx context.Context) error { return errors.Join(s.Kill(ctx), s.Start(ctx)) }},
	} {
		again.run(t)
		if got := query(t, s, "SELECT slot_name::text FROM pg_replication_slots"); got != "kept" {
			t.Errorf("%s: slot %q, want kept", again.name, got)
		}
	}
	closed()
}

func TestKafka(t *testing.T) {
	wanted(t)
	var s *testenv.KafkaServer
	step{"start", func(ctx context.Context) (err error) {
		s, err = testenv.StartKafka(ctx, kafkaConfig())
		return err
	}}.run(t)
	closed := closeAfter(t, s)
	if s.Source != testenv.Container {
		t.Errorf("got Kafka from %s, want a container", s.Source)
	}
	produce(t, s.Addrs(), "kept")
	checkPassword(t, s.ListenerAddrs("SASL"))
	for _, again := range []step{
		{"stop and start", func(ctx context.Context) error { return errors.Join(s.Stop(ctx), s.Start(ctx)) }},
		{"kill and start", func(ctx context.Context) error { return errors.Join(s.Kill(ctx), s.Start(ctx)) }},
		{"pause and resume", func(context.Context) error { return errors.Join(s.Pause(), s.Resume()) }},
	} {
		again.run(t)
		if got := consume(t, s.Addrs()); got != "kept" {
			t.Errorf("%s: consumed %q, want kept", again.name, got)
		}
	}
	closed()
}

func checkGuess(t *testing.T, s *testenv.PostgresServer) {
	t.Helper()
	cfg, err := pgx.ParseConfig(s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Password = "guessed"
	if _, err := pgx.ConnectConfig(t.Context(), cfg); err == nil {
		t.Error("a wrong password was let in")
	}
}

// kafkaConfig has a second listener, whose settings have names that are hard
// to pass on in an environment.
func kafkaConfig() testenv.KafkaConfig {
	return testenv.KafkaConfig{
		Source: testenv.Container, Engine: containers.Docker{},
		Listeners: map[string]string{"SASL": "SASL_PLAINTEXT"},
		Properties: map[string]string{
			"sasl.enabled.mechanisms":                   "PLAIN",
			"listener.name.sasl.plain.sasl.jaas.config": `org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="secret";`,
		},
	}
}

func checkPassword(t *testing.T, addrs []string) {
	t.Helper()
	for password, want := range map[string]bool{"secret": true, "guessed": false} {
		auth := plain.Auth{User: "alice", Pass: password}.AsMechanism()
		err := client(t, addrs, kgo.SASL(auth), kgo.RetryTimeout(time.Second)).Ping(t.Context())
		if (err == nil) != want {
			t.Errorf("password %q: got %v, want it let in: %v", password, err, want)
		}
	}
}

// closeAfter returns a function that closes s and checks that nothing listens
// where it was. It runs after the test at the latest.
func closeAfter(t *testing.T, s interface{ Close() error }) func() {
	t.Helper()
	addr := address(s)
	done := false
	closed := func() {
		if done {
			return
		}
		done = true
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", addr); err == nil {
			_ = conn.Close()
			t.Errorf("%s is still listened on after Close", addr)
		}
	}
	t.Cleanup(closed)
	return closed
}

// address is where the server listens.
func address(s any) string {
	switch s := s.(type) {
	case *testenv.KafkaServer:
		return s.Addrs()[0]
	case *testenv.PostgresServer:
		cfg, err := pgx.ParseConfig(s.DSN())
		if err == nil {
			return net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port))
		}
	}
	return ""
}

// query returns the one value that sql selects.
func query(t *testing.T, s *testenv.PostgresServer, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // the test has its answer
	var value string
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func client(t *testing.T, addrs []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addrs...)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

const topic = "orders"

// produce makes the topic and puts one record into it.
func produce(t *testing.T, addrs []string, value string) {
	t.Helper()
	c := client(t, addrs)
	if _, err := kadm.NewClient(c).CreateTopic(t.Context(), 1, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte(value)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// consume returns the value of the topic's first record.
func consume(t *testing.T, addrs []string) string {
	t.Helper()
	c := client(t, addrs, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fetches := c.PollRecords(ctx, 1)
	if err := fetches.Err(); err != nil {
		t.Fatal(err)
	}
	return string(fetches.Records()[0].Value)
}
