package kafka

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// A topic that was deleted and created again is another: it is said, once, also if it is as long as
// the other one was, where nothing would come of it. Then it is read from its beginning.
func TestReaderOfTopicCreatedAgain(t *testing.T) {
	brokers := envtest.Kafka(t).Addrs()
	for name, idle := range map[string]bool{"Waiting": false, "Idle": true} {
		t.Run(name, func(t *testing.T) {
			topic := envtest.CreateTopic(t, brokers, 1, nil)
			ctx := within(t, testTimeout)
			writeTo(t, brokers, topic, "old")
			r := newReader(t, brokers, topic)
			if _, err := r.Fetch(ctx, 0); err != nil {
				t.Fatal(err)
			}
			fetched := make(chan error, 1)
			fetch := func() { _, err := r.Fetch(ctx, 1); fetched <- err }
			if !idle {
				go fetch()
			}
			deleteTopic(t, brokers, topic)
			if !idle {
				eventually(t, "the reader tells that it cannot read", func() bool { return r.Healthy() != nil })
			}
			eventually(t, "the topic is there again", func() bool {
				_, err := envtest.Admin(t, brokers).CreateTopic(ctx, 1, 1, nil, topic)
				return err == nil
			})
			writeTo(t, brokers, topic, "new")
			if idle {
				go fetch()
			}
			if err := <-fetched; !errors.Is(err, cdc.ErrAnotherLog) {
				t.Fatalf("Fetch() = %v, want ErrAnotherLog", err)
			}
			recs, err := r.Fetch(ctx, 0)
			if err != nil || len(recs) != 1 || string(recs[0].Value) != "new" || recs[0].Offset != 0 {
				t.Errorf("Fetch() = %v, %v, want what is new", recs, err)
			}
			if err := r.Healthy(); err != nil {
				t.Error(err)
			}
		})
	}
}

func writeTo(t *testing.T, brokers []string, topic, value string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(within(t, testTimeout), kgo.StringRecord(value)).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// A topic that is deleted while records go to it is created again if topics are to be, and the
// hint does not name the setting.
func TestDeletedIsCreated(t *testing.T) {
	brokers := envtest.Kafka(t).Addrs()
	topic, log := envtest.CreateTopic(t, brokers, 1, nil), new(logs)
	s := newSink(t, Config{Brokers: brokers, CreateTopics: true, Partitions: 1, Logger: log.logger(slog.LevelInfo)})
	watched(t, s.Watch)
	a := new(answers)
	produce(t, s, a, record(topic, "key", "old"))
	flush(t, s)
	deleteTopic(t, brokers, topic)
	produce(t, s, a, record(topic, "key", "0"))
	produce(t, s, a, record(topic, "key", "1"))
	flush(t, s)
	if err := firstError(a); err != nil {
		t.Errorf("done(%v), want nil", err)
	}
	checkSequence(t, values(t, brokers, topic), 2)
	if created, hints := log.count("created topic"), log.count("set kafka.create_topics"); created != 1 || hints > 0 {
		t.Errorf("%d times said to have created it, and %d times to set what is set", created, hints)
	}
}

// So is one behind a topic that takes nothing for another reason.
func TestDeletedIsCreatedBehindAnother(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, "stuck", "gone"))
	log := new(logs)
	s := newSink(t, Config{Brokers: c.ListenAddrs(), CreateTopics: true, Partitions: 1, Logger: log.logger(slog.LevelInfo)})
	watched(t, s.Watch)
	a := new(answers)
	produce(t, s, a, record("gone", "key", "old"))
	flush(t, s)
	stuck := c.TopicInfo("stuck").TopicID
	c.ControlKey(int16(kmsg.Produce), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.ProduceRequest)
		if len(req.Topics) != 1 || req.Topics[0].TopicID != stuck {
			return nil, nil, false
		}
		resp, topic, partition := req.ResponseKind().(*kmsg.ProduceResponse), kmsg.NewProduceResponseTopic(), kmsg.NewProduceResponseTopicPartition()
		partition.ErrorCode = kerr.NotEnoughReplicas.Code
		topic.TopicID, topic.Partitions = stuck, append(topic.Partitions, partition)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	produce(t, s, a, record("stuck", "key", "0"))
	eventually(t, "a topic takes nothing", func() bool { return log.count("stuck") > 0 })
	deleteTopic(t, c.ListenAddrs(), "gone")
	produce(t, s, a, record("gone", "key", "1"))
	eventually(t, "the topic behind it is created", func() bool { return log.count("created topic") == 1 })
}

// The same in transactions: the one that was open is lost, and the next one finds the topic.
func TestDeletedIsCreatedInTransaction(t *testing.T) {
	brokers := envtest.Kafka(t).Addrs()
	topic := envtest.CreateTopic(t, brokers, 1, nil)
	x := acquired(t, newTransactional(t, Config{Brokers: brokers, CreateTopics: true, Partitions: 1}, envtest.Name(t)))
	watched(t, x.Watch)
	put(t, x, new(answers), topic, "old")
	if err := x.Save(within(t, testTimeout), pos(10)); err != nil {
		t.Fatal(err)
	}
	deleteTopic(t, brokers, topic)
	put(t, x, new(answers), topic, "new")
	if err := x.Save(within(t, testTimeout), pos(20)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Save() = %v, want that the transaction is lost", err)
	}
	acquired(t, x)
	put(t, x, new(answers), topic, "new")
	if err := x.Save(within(t, testTimeout), pos(20)); err != nil {
		t.Fatal(err)
	}
	if got := committedValues(t, brokers, topic); len(got) != 1 || got[0] != "new" {
		t.Errorf("committed %v, want new", got)
	}
}

// watched has a sink watched until the test ends.
func watched(t *testing.T, watch func(context.Context) error) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- watch(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
}

// deleteTopic deletes a topic, and waits until the broker has heard of it.
func deleteTopic(t *testing.T, brokers []string, topic string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the topic is gone", func() bool {
		_, err := countPartitions(t.Context(), client, topic)
		return errors.Is(err, kerr.UnknownTopicOrPartition)
	})
}
