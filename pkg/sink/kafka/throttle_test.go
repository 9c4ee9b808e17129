package kafka

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

// A quota is named, with the pause that the broker wants, where it else looks like a broker that
// does not answer.
func TestThrottled(t *testing.T) {
	brokers := envtest.Kafka(t).Addrs()
	topic, id, log := envtest.CreateTopic(t, brokers, 1, nil), envtest.Name(t), new(logs)
	_, err := envtest.Admin(t, brokers).AlterClientQuotas(t.Context(), []kadm.AlterClientQuotaEntry{{
		Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: &id}},
		Ops:    []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Value: 10_000}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := newSink(t, Config{Brokers: brokers, ClientID: id, Compression: "none", Logger: log.logger(slog.LevelWarn)})
	a := new(answers)
	eventually(t, "Healthy names the quota", func() bool {
		if records, _ := s.budget.inFlight(); records < 4 {
			produce(t, s, a, record(topic, "k", strings.Repeat("x", 100_000)))
		}
		err := s.Healthy(t.Context())
		return contains(err, "quota") && contains(err, "pause of ")
	})
	if log.count("a quota of the broker's slows walpost down") == 0 || log.count("throttle=") == 0 {
		t.Error("the log does not name the quota")
	}
}
