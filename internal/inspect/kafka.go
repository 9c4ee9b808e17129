package inspect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Kafka is what the checks of a cluster are about.
type Kafka struct {
	Admin *kadm.Client

	// Topic is outbox.topic, in which ${name} and $1 stand for what rows say.
	Topic        string
	CreateTopics bool

	Limits Limits

	// Replayable is how old the oldest event is that a bookmark keeps; zero if there is none.
	Replayable time.Duration

	topics kadm.TopicDetails // found by brokers, as ids are
	ids    []int32
}

// maxTopics bounds the topics whose settings are read.
const maxTopics = 1000

// NewKafka gives k a client of its own, which Close ends.
func NewKafka(opts []kgo.Opt, k Kafka) (*Kafka, error) {
	admin, err := kadm.NewOptClient(append(opts, kgo.RetryTimeout(checkTimeout/2))...)
	if err != nil {
		return nil, err
	}
	k.Admin = admin
	return &k, nil
}

// Close ends the connections.
func (k *Kafka) Close() { k.Admin.Close() }

// Check looks at everything.
func (k *Kafka) Check(ctx context.Context) []Check {
	return makeAll(ctx, []look{
		{"brokers", k.brokers},
		{"broker limits", k.limits},
		{"topics", k.exist},
		{"replicas", k.replicas},
		{"topic settings", k.settings},
	})
}

func (k *Kafka) brokers(ctx context.Context) (*Check, error) {
	meta, err := k.Admin.Metadata(ctx)
	if err != nil {
		return fail("check kafka.brokers, kafka.tls and kafka.sasl, and the brokers themselves", "no broker answers: %v", err)
	}
	k.topics, k.ids = meta.Topics, meta.Brokers.NodeIDs()
	k.topics.FilterInternal()
	return ok("%d, controller %d", len(meta.Brokers), meta.Controller)
}

// ours are the topics that the events may go to.
func (k *Kafka) ours() []kadm.TopicDetail {
	prefix, suffix := k.Topic, ""
	i := strings.IndexByte(k.Topic, '$')
	if i >= 0 {
		prefix = k.Topic[:i]
		if j := strings.LastIndexByte(k.Topic, '}'); j > i {
			suffix = k.Topic[j+1:]
		}
	}
	var found []kadm.TopicDetail
	for _, t := range k.topics.Sorted() {
		if i < 0 && t.Topic == k.Topic || i >= 0 && prefix != "" && strings.HasPrefix(t.Topic, prefix) && strings.HasSuffix(t.Topic, suffix) {
			found = append(found, t)
		}
	}
	return found[:min(len(found), maxTopics)]
}

func (k *Kafka) exist(context.Context) (*Check, error) {
	if k.topics == nil {
		return nil, nil // no broker has answered
	}
	found := k.ours()
	if strings.HasPrefix(k.Topic, "$") {
		return ok("outbox.topic begins with what rows say, so that the topics cannot be told by it")
	}
	if len(found) == 0 && !k.CreateTopics {
		return warn("create the topics, or set kafka.create_topics", "there is none for %s, and walpost holds events until there is", k.Topic)
	}
	if len(found) == 0 {
		return ok("none yet for %s; walpost creates them", k.Topic)
	}
	return ok("%d for %s", len(found), k.Topic)
}

func (k *Kafka) replicas(context.Context) (*Check, error) {
	var offline, single []string
	for _, t := range k.ours() {
		for _, p := range t.Partitions {
			switch {
			case p.Leader < 0 || p.Err != nil:
				offline = append(offline, fmt.Sprintf("%s/%d", t.Topic, p.Partition))
			case len(p.Replicas) == 1:
				single = append(single, t.Topic)
			}
		}
	}
	switch {
	case len(offline) > 0:
		return fail("bring the brokers back that have them", "without a leader: %s", some(offline))
	case len(single) > 0:
		single = slices.Compact(single)
		return warn("give them 3 replicas and min.insync.replicas 2", "one replica only, so that a lost disk loses acknowledged events: %s", some(single))
	}
	return nil, nil
}

func (k *Kafka) settings(ctx context.Context) (*Check, error) {
	ours := k.ours()
	if len(ours) == 0 {
		return nil, nil
	}
	replicas := map[string]int{}
	var names []string
	for _, t := range ours {
		names = append(names, t.Topic)
		replicas[t.Topic] = t.Partitions.NumReplicas()
	}
	configs, err := k.Admin.DescribeTopicConfigs(ctx, names...)
	if errors.Is(err, kerr.TopicAuthorizationFailed) {
		return warn("allow DescribeConfigs on the topics", "settings of the topics may not be read")
	}
	if err != nil {
		return fail("look after the brokers", "settings of the topics cannot be read: %v", err)
	}
	worst, _ := ok("retention, compaction and replicas suit events")
	for _, c := range configs {
		if found := k.judge(c, replicas[c.Name]); found != nil && (worst.Verdict == OK || found.Verdict == Fail) {
			worst = found
		}
	}
	return worst, nil
}

// judge returns what is wrong with a topic's settings, or nil.
func (k *Kafka) judge(c kadm.ResourceConfig, replicas int) *Check {
	value := valuesOf(c)
	var found *Check
	if n, err := strconv.Atoi(value["max.message.bytes"]); err == nil && k.Limits.MessageBytes > n {
		found, _ = fail("lower kafka.max_message_bytes, or raise the topic's max.message.bytes", "topic %s takes batches of %d bytes, and kafka.max_message_bytes is %d: larger ones would be refused", c.Name, n, k.Limits.MessageBytes)
		return found
	}
	if n, err := strconv.Atoi(value["min.insync.replicas"]); err == nil && n > replicas {
		found, _ = fail("lower min.insync.replicas, or add replicas", "topic %s has %d replicas, and min.insync.replicas %d: nothing can be written", c.Name, replicas, n)
		return found
	}
	if strings.Contains(value["cleanup.policy"], "compact") {
		found, _ = warn("set cleanup.policy to delete, unless consumers want no more than a key's last event", "topic %s is compacted: of a key's events only the last is kept", c.Name)
		return found
	}
	ms, err := strconv.ParseInt(value["retention.ms"], 10, 64)
	retention := time.Duration(ms) * time.Millisecond
	if err == nil && ms >= 0 && k.Replayable > retention {
		found, _ = warn("replay with --timestamp now, or raise retention.ms", "topic %s keeps records for %s, and a bookmark events of %s ago: replayed with their own timestamps they are dropped again", c.Name, retention, k.Replayable.Round(time.Minute))
	}
	return found
}

// some are the first few of a list.
func some(all []string) string {
	const most = 3
	if len(all) <= most {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
}
