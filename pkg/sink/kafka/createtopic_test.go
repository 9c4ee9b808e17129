package kafka

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// refuseSetting has a cluster refuse topics with a setting, as hosted ones do.
func refuseSetting(c *kfake.Cluster, setting string, with *kerr.Error) {
	c.ControlKey(int16(kmsg.CreateTopics), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.CreateTopicsRequest)
		refused := func(s kmsg.CreateTopicsRequestTopicConfig) bool { return s.Name == setting }
		if !slices.ContainsFunc(req.Topics[0].Configs, refused) {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
		topic := kmsg.NewCreateTopicsResponseTopic()
		topic.Topic, topic.ErrorCode, topic.ErrorMessage = req.Topics[0].Topic, with.Code, kmsg.StringPtr("not here")
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
}

// A setting that walpost's own topics do better with, and that the cluster refuses, is left out,
// which is said once. One that they need is not.
func TestRefusedSettings(t *testing.T) {
	const left = "the cluster does not take a setting"
	for _, err := range []*kerr.Error{kerr.InvalidConfig, kerr.PolicyViolation} {
		t.Run("Progress "+err.Message, func(t *testing.T) {
			c, log := newCluster(t), new(logs)
			refuseSetting(c, "segment.bytes", err)
			x := acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs(), Logger: log.logger(slog.LevelInfo)}, ""))
			acquired(t, x)
			if n := log.count(left); n != 1 || log.count("setting=segment.bytes") != 1 {
				t.Errorf("said %d times, want once", n)
			}
		})
		t.Run("DeadLetters "+err.Message, func(t *testing.T) {
			c, log := newCluster(t), new(logs)
			refuseSetting(c, "max.message.bytes", err)
			s := newSink(t, Config{Brokers: c.ListenAddrs(), CreateTopics: true, DeadLetterTopic: deadTopic, Logger: log.logger(slog.LevelInfo)})
			produce(t, s, new(answers), record(deadTopic, "k", "v"))
			if n := log.count(left); n != 1 || log.count("setting=max.message.bytes") != 1 {
				t.Errorf("said %d times, want once", n)
			}
		})
	}
	t.Run("Needed", func(t *testing.T) {
		c, log := newCluster(t), new(logs)
		refuseSetting(c, "cleanup.policy", kerr.InvalidConfig)
		x := newTransactional(t, Config{Brokers: c.ListenAddrs(), Logger: log.logger(slog.LevelInfo)}, "")
		if _, err := x.Acquire(within(t, testTimeout)); !contains(err, "INVALID_CONFIG") || !contains(err, "not here") || log.count(left) != 0 {
			t.Errorf("Acquire() = %v, want what the cluster says", err)
		}
	})
}
