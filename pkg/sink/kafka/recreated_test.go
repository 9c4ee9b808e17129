package kafka

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// A topic that was deleted and created again is read on, from its beginning.
func TestReaderOfTopicCreatedAgain(t *testing.T) {
	brokers := envtest.Kafka(t).Addrs()
	topic := envtest.CreateTopic(t, brokers, 1, nil)
	ctx := within(t, testTimeout)
	write := func(values ...string) {
		t.Helper()
		client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic(topic))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for _, value := range values {
			if err := client.ProduceSync(ctx, kgo.StringRecord(value)).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("1", "2", "3")
	r := newReader(t, brokers, topic)
	next := int64(0)
	for next < 3 {
		recs, err := r.Fetch(ctx, next)
		if err != nil {
			t.Fatal(err)
		}
		next += int64(len(recs))
	}

	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.DeleteTopic(ctx, topic); err != nil {
		t.Fatal(err)
	}
	fetched := make(chan cdc.Logged, 1)
	go func() {
		if recs, err := r.Fetch(ctx, next); err == nil {
			fetched <- recs[0]
		}
	}()
	eventually(t, "the reader tells that it cannot read", func() bool { return r.Healthy() != nil })
	eventually(t, "the topic is there again", func() bool {
		_, err := admin.CreateTopic(ctx, 1, 1, nil, topic)
		return err == nil
	})
	write("new")
	select {
	case rec := <-fetched:
		if string(rec.Value) != "new" || rec.Offset != 0 {
			t.Errorf("got %q at %d", rec.Value, rec.Offset)
		}
	case <-ctx.Done():
		t.Fatal("nothing of the new topic was read")
	}
	if err := r.Healthy(); err != nil {
		t.Error(err)
	}
}
