package kafka

import (
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/walpost/walpost/pkg/cdc"
)

// deadLetterSettings are those of a dead-letter topic that the sink creates.
// https://kafka.apache.org/documentation/#topicconfigs
var deadLetterSettings = map[string]string{
	"cleanup.policy":    "delete",
	"retention.ms":      "-1",
	"retention.bytes":   "-1",
	"max.message.bytes": strconv.Itoa(maxBatchBytes),
}

// newTopic returns what the topic is created as. Without max.message.bytes a dead-letter topic
// is refused the larger events only.
func (c Config) newTopic(name string) newTopic {
	if name == c.DeadLetterTopic {
		return newTopic{name: name, partitions: 1, replication: c.ReplicationFactor, settings: deadLetterSettings, optional: "max.message.bytes"}
	}
	return newTopic{name: name, partitions: int32(c.Partitions), replication: c.ReplicationFactor}
}

// checkRetention judges the settings of a dead-letter topic: what it drops is lost.
func (s *Sink) checkRetention(topic kadm.ResourceConfig) error {
	set := map[string]string{}
	for _, c := range topic.Configs {
		set[c.Key] = c.MaybeValue()
	}
	if strings.Contains(set["cleanup.policy"], "compact") {
		return cdc.Refuse("set its cleanup.policy to delete and its retention.ms to -1",
			"dead-letter topic %s is compacted, which drops all but the last event of a key", topic.Name)
	}
	if ms, err := strconv.ParseInt(set["retention.ms"], 10, 64); err == nil && ms >= 0 {
		s.log.Warn("the dead-letter topic drops what is older than its retention, parked events too", "topic", topic.Name,
			"retention", (time.Duration(ms) * time.Millisecond).String(), "hint", "set its retention.ms to -1")
	}
	if n, err := strconv.ParseInt(set["retention.bytes"], 10, 64); err == nil && n >= 0 {
		s.log.Warn("the dead-letter topic drops what is more than its retention, parked events too", "topic", topic.Name,
			"retention_bytes", n, "hint", "set its retention.bytes to -1")
	}
	return nil
}
