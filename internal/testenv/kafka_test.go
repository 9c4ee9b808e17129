package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// ownKafka returns a broker of the test's own, closed after it. It checks that
// nothing is left then.
func ownKafka(t *testing.T, cfg KafkaConfig) *KafkaServer {
	t.Helper()
	t.Setenv(KafkaVariable, "")
	start := time.Now()
	s, err := StartKafka(t.Context(), cfg)
	need(t, err)
	t.Logf("Kafka (%s): started in %v", s.Source, time.Since(start).Round(time.Millisecond))
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

// newClient returns a client, closed after the test.
func newClient(t *testing.T, addrs []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addrs...)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// produce makes the topic and puts one record into it.
func produce(t *testing.T, addrs []string, topic, value string) {
	t.Helper()
	client := newClient(t, addrs)
	if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 3, 1, nil, topic); err != nil {
		t.Fatal(err)
	}
	record := &kgo.Record{Topic: topic, Value: []byte(value)}
	if err := client.ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// consume returns the value of the first record of the topic.
func consume(t *testing.T, addrs []string, topic string) string {
	t.Helper()
	client := newClient(t, addrs, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fetches := client.PollRecords(ctx, 1)
	if err := fetches.Err(); err != nil {
		t.Fatal(err)
	}
	return string(fetches.Records()[0].Value)
}

func TestKafkaLife(t *testing.T) {
	s := ownKafka(t, KafkaConfig{})
	produce(t, s.Addrs(), "orders", "kept")
	for _, again := range []struct {
		name string
		stop func(context.Context) error
	}{
		{"stop and start", s.Stop},
		{"kill and start", s.Kill},
	} {
		start := time.Now()
		if err := errors.Join(again.stop(t.Context()), s.Start(t.Context())); err != nil {
			t.Fatalf("%s: %v", again.name, err)
		}
		t.Logf("%s: %v", again.name, time.Since(start).Round(time.Millisecond))
		if got := consume(t, s.Addrs(), "orders"); got != "kept" {
			t.Fatalf("%s: consumed %q, want %q", again.name, got, "kept")
		}
	}
	log, err := os.ReadFile(s.LogFile())
	if err != nil || len(log) == 0 {
		t.Errorf("log is empty, or cannot be read: %v", err)
	}
}

func TestKafkaPause(t *testing.T) {
	s := ownKafka(t, KafkaConfig{})
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.ask(ctx); err == nil {
		t.Error("a paused broker answers")
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := s.ask(t.Context()); err != nil {
		t.Errorf("a resumed broker does not answer: %v", err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(); !errors.Is(err, errExited) {
		t.Errorf("Pause of a stopped broker: got %v, want errExited", err)
	}
}

func TestKafkaListenersAndProperties(t *testing.T) {
	const login = "org.apache.kafka.common.security.plain.PlainLoginModule required user_%s=\"%s\";"
	s := ownKafka(t, KafkaConfig{
		Listeners: map[string]string{"SASL": "SASL_PLAINTEXT"},
		Properties: map[string]string{
			"sasl.enabled.mechanisms":                   "PLAIN",
			"listener.name.sasl.plain.sasl.jaas.config": fmt.Sprintf(login, "alice", "secret"),
			"authorizer.class.name":                     "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"super.users":                               "User:ANONYMOUS",
		},
	})
	ping := func(password string) error {
		client := newClient(t, s.ListenerAddrs("SASL"),
			kgo.SASL(plain.Auth{User: "alice", Pass: password}.AsMechanism()), kgo.RetryTimeout(time.Second))
		return client.Ping(t.Context())
	}
	if err := ping("secret"); err != nil {
		t.Errorf("with the password: %v", err)
	}
	if err := ping("guessed"); err == nil {
		t.Error("with a wrong password: got no error")
	}
	produce(t, s.Addrs(), "orders", "by a super user")
}

// A client of a listener that is advertised elsewhere is sent there, whatever it
// has connected to.
func TestKafkaAdvertised(t *testing.T) {
	s := ownKafka(t, KafkaConfig{
		Listeners: map[string]string{"LINKED": "PLAINTEXT"}, Advertised: map[string]string{"LINKED": "127.0.0.1:1"},
	})
	for addr, want := range map[string]string{s.ListenerAddrs("LINKED")[0]: "127.0.0.1:1", s.Addrs()[0]: s.Addrs()[0]} {
		brokers, err := kadm.NewClient(newClient(t, []string{addr})).ListBrokers(t.Context())
		if err != nil || len(brokers) != 1 {
			t.Fatalf("got %v, %v, want one broker", brokers, err)
		}
		if got := address(int(brokers[0].Port)); got != want {
			t.Errorf("a client of %s is sent to %s, want %s", addr, got, want)
		}
	}
}

func TestKafkaExternal(t *testing.T) {
	cluster, err := StartFakeKafka()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	t.Setenv(KafkaVariable, cluster.ListenAddrs()[0])
	s, err := StartKafka(t.Context(), KafkaConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Source != Environment {
		t.Errorf("source = %s, want the environment", s.Source)
	}
	for name, err := range map[string]error{
		"Stop": s.Stop(t.Context()), "Kill": s.Kill(t.Context()), "Start": s.Start(t.Context()),
		"Pause": s.Pause(), "Resume": s.Resume(),
	} {
		if !errors.Is(err, ErrExternal) {
			t.Errorf("%s: got %v, want ErrExternal", name, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	produce(t, s.Addrs(), "orders", "x") // Close left it alone
}

func TestKafkaUnavailable(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(KafkaVariable, "")
	if _, err := StartKafka(t.Context(), KafkaConfig{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without Java: got %v, want ErrUnavailable", err)
	}
	t.Setenv(KafkaVariable, "127.0.0.1:1")
	settings := KafkaConfig{Source: Environment, Properties: map[string]string{"a": "b"}}
	if _, err := StartKafka(t.Context(), settings); !errors.Is(err, ErrUnavailable) {
		t.Errorf("settings for an external broker: got %v, want ErrUnavailable", err)
	}
}

func TestFakeKafka(t *testing.T) {
	cluster, err := StartFakeKafka()
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	produce(t, cluster.ListenAddrs(), "orders", "kept")
	if got := consume(t, cluster.ListenAddrs(), "orders"); got != "kept" {
		t.Errorf("consumed %q, want %q", got, "kept")
	}
}
