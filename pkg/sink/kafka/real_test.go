package kafka

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/sink/sinktest"
)

// TestContractOnKafka runs the contract on a real broker, each time with
// another compression.
func TestContractOnKafka(t *testing.T) {
	addrs := envtest.Kafka(t).Addrs()
	compressions := []string{"none", "gzip", "snappy", "lz4", "zstd"}
	n := 0
	sinktest.Run(t, func(t *testing.T) sinktest.Harness {
		topic := envtest.CreateTopic(t, addrs, testPartitions, nil)
		g := newGate()
		s := newSink(t, Config{Brokers: addrs, MaxInFlightBytes: 64 << 10, Dialer: g.dial, Compression: compressions[n%len(compressions)]})
		n++
		return sinktest.Harness{
			Sink: s, Topic: topic, Partitions: testPartitions, Oversize: defaultMessageBytes, Full: 200,
			Read:   func(t *testing.T) [][]cdc.Record { return readTopic(t, addrs, topic) },
			Outage: g.outage,
		}
	})
}

// TestRefusedByKafka makes a real broker refuse a record: the topic is
// compacted, and the record has no key.
func TestRefusedByKafka(t *testing.T) {
	addrs := envtest.Kafka(t).Addrs()
	compact := "compact"
	topic := envtest.CreateTopic(t, addrs, 1, map[string]*string{"cleanup.policy": &compact})
	s := newSink(t, Config{Brokers: addrs})
	a := new(answers)
	r := record(topic, "", "v")
	r.Key = nil
	produce(t, s, a, r)
	flush(t, s)
	if got := firstError(a); !isRefusal(got) {
		t.Errorf("done(%v), want a refusal", got)
	}
}

// TestDeletedOnKafka deletes a topic of a real broker and creates it again later.
func TestDeletedOnKafka(t *testing.T) {
	addrs := envtest.Kafka(t).Addrs()
	testDeleted(t, addrs, envtest.CreateTopic(t, addrs, 2, nil))
}

// TestJavaPartitions compares with where the Java client sends its records.
func TestJavaPartitions(t *testing.T) {
	all, err := testenv.JavaPartitions()
	if err != nil {
		t.Fatal(err)
	}
	p := newPartitioner().ForTopic(testTopic)
	for _, key := range all {
		for count, want := range key.Partition {
			if got := p.Partition(&kgo.Record{Key: key.Key, Partition: -1}, int(count)); got != int(want) {
				t.Errorf("key %q goes to partition %d of %d, want %d", key.Key, got, count, want)
			}
			if got := sinktest.Partition(key.Key, int(count)); got != int(want) {
				t.Errorf("sinktest.Partition(%q, %d) = %d, want %d", key.Key, count, got, want)
			}
		}
	}
}

// TestKafkaRestarts stops and kills a real broker while records flow.
func TestKafkaRestarts(t *testing.T) {
	server := envtest.NewKafka(t, testenv.KafkaConfig{})
	addrs := server.Addrs()
	topic := envtest.CreateTopic(t, addrs, 1, nil)
	s := newSink(t, Config{Brokers: addrs})
	a := new(answers)
	const batch = 2000
	for i, disturb := range []func() error{
		func() error { return server.Stop(t.Context()) },
		func() error { return server.Kill(t.Context()) },
	} {
		for j := i * batch; j < (i+1)*batch; j++ {
			produce(t, s, a, record(topic, fmt.Sprint("key", j%7), fmt.Sprint(j)))
			if j == i*batch+batch/2 {
				if err := disturb(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		flush(t, s)
		t.Logf("delivered %s after the broker answered", time.Since(start).Round(time.Millisecond))
	}
	if err := firstError(a); err != nil {
		t.Errorf("done(%v), want nil", err)
	}
	checkSequence(t, values(t, addrs, topic), 2*batch)
}

// TestForbiddenByKafka writes to a real broker as a user without rights, and
// gives them step by step. The right to read the topic's settings is not among
// them, and what the topic takes is more than the default.
func TestForbiddenByKafka(t *testing.T) {
	server := envtest.NewKafka(t, testenv.KafkaConfig{
		Listeners: map[string]string{"SASL": "SASL_PLAINTEXT"},
		Properties: map[string]string{
			"authorizer.class.name":                     "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
			"super.users":                               "User:ANONYMOUS",
			"sasl.enabled.mechanisms":                   "PLAIN",
			"listener.name.sasl.plain.sasl.jaas.config": `org.apache.kafka.common.security.plain.PlainLoginModule required user_u="p";`,
		},
	})
	limit := "3000000"
	topic := envtest.CreateTopic(t, server.Addrs(), 1, map[string]*string{"max.message.bytes": &limit})
	s := newSink(t, Config{Brokers: server.ListenerAddrs("SASL"), Compression: "none", SASL: SASL{Mechanism: Plain, Username: "u", Password: "p"}})
	a := new(answers)
	const n = 20
	produced := make(chan error, 1)
	go func() {
		for i := range n {
			if err := s.Produce(t.Context(), record(topic, "key", fmt.Sprint(i)), a.done); err != nil {
				produced <- err
				return
			}
		}
		produced <- nil
	}()
	admin := envtest.Admin(t, server.Addrs())
	eventually(t, "describe is forbidden", func() bool { return contains(s.Healthy(t.Context()), "TOPIC_AUTHORIZATION_FAILED") })
	allow(t, admin, topic, kadm.OpDescribe)
	if err := <-produced; err != nil {
		t.Fatalf("Produce() = %v", err)
	}
	eventually(t, "write is forbidden", func() bool { return contains(s.Healthy(t.Context()), "AUTHORIZATION_FAILED") })
	if got := a.list(); len(got) > 0 {
		t.Errorf("done was called with %v", got)
	}
	allow(t, admin, topic, kadm.OpWrite)
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Errorf("done(%v), want nil", err)
	}
	checkSequence(t, values(t, server.Addrs(), topic), n)

	large := strings.Repeat("x", 2_000_000)
	produce(t, s, a, record(topic, "key", large))
	flush(t, s)
	if got := values(t, server.Addrs(), topic)[0]; len(got) != n+1 || got[n] != large {
		t.Errorf("%d records are durable, want %d and the large one", len(got), n)
	}
}

func allow(t *testing.T, admin *kadm.Client, topic string, op kadm.ACLOperation) {
	t.Helper()
	acl := kadm.NewACLs().Topics(topic).ResourcePatternType(kadm.ACLPatternLiteral).Operations(op).Allow("User:u").AllowHosts("*")
	results, err := admin.CreateACLs(t.Context(), acl)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}
