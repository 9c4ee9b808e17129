package inspect

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
)

// What a real broker does not allow.
func TestBrokerLimits(t *testing.T) {
	broker := envtest.NewKafka(t, testenv.KafkaConfig{Properties: map[string]string{
		"transaction.max.timeout.ms": "30000", "message.max.bytes": "500000", "min.insync.replicas": "2",
	}})
	small := envtest.CreateTopic(t, broker.Addrs(), 1, map[string]*string{"max.message.bytes": new("100000"), "min.insync.replicas": new("1")})
	for name, c := range map[string]struct {
		limits  Limits
		topic   string
		create  bool
		check   string
		verdict Verdict
		text    string
	}{
		"within":              {Limits{MessageBytes: 100_000, TransactionTimeout: 30 * time.Second}, small, false, "broker limits", OK, "allow"},
		"transaction timeout": {Limits{TransactionTimeout: time.Minute}, small, false, "broker limits", Fail, "takes at most 30s"},
		"batch of the topic":  {Limits{MessageBytes: 400_000}, small, false, "topic settings", Fail, "takes batches of 100000"},
		"batch of new topics": {Limits{MessageBytes: 600_000}, "none", true, "broker limits", Fail, "takes 500000"},
		"replicas":            {Limits{Replicas: 3}, "none", true, "broker limits", Fail, "there are 1 brokers"},
		"in sync":             {Limits{Replicas: 1}, "none", true, "broker limits", Fail, "min.insync.replicas is 2"},
		"the brokers' own":    {Limits{}, "none", true, "broker limits", Fail, "has 1 replicas"},
		"all is there":        {Limits{Replicas: 3}, small, true, "broker limits", Warn, "there are 1 brokers"},
		"nothing is created":  {Limits{Replicas: 3, MessageBytes: 100_000}, small, false, "broker limits", OK, "allow"},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := NewKafka([]kgo.Opt{kgo.SeedBrokers(broker.Addrs()...)}, Kafka{Topic: c.topic, CreateTopics: c.create, Limits: c.limits})
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			found := false
			for _, got := range k.Check(t.Context()) {
				if got.Name != c.check {
					continue
				}
				found = true
				if got.Verdict != c.verdict || !strings.Contains(got.Text, c.text) || (got.Mend == "") != (c.verdict == OK) {
					t.Errorf("%+v, want %s with %q", got, c.verdict, c.text)
				}
			}
			if !found {
				t.Errorf("no check of %s", c.check)
			}
		})
	}
}
