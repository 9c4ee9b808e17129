package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

const (
	// kafkaTimeout bounds each request that is not about records.
	kafkaTimeout = 15 * time.Second

	topicHint = "allow the user to CREATE, DELETE, DESCRIBE, READ and WRITE topics with the prefix " + Prefix
)

// dial returns a client, once a broker has answered.
func (c Config) dial(ctx context.Context) (*kgo.Client, error) {
	cl, err := kgo.NewClient(c.Kafka...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	kctx, cancel := context.WithTimeout(ctx, kafkaTimeout)
	defer cancel()
	if err := cl.Ping(kctx); err != nil {
		cl.Close()
		return nil, because(ctx, cdc.Refuse("check kafka.brokers, kafka.tls and kafka.sasl", "no broker answers: %w", err))
	}
	return cl, nil
}

func (b *bench) topic(name string, make func(context.Context) error) object {
	return object{
		kind: "topic", name: name, make: make, drop: func(ctx context.Context) error { return b.deleteTopic(ctx, name) },
		undo: fmt.Sprintf("kafka-topics.sh --bootstrap-server %s --delete --topic %s", strings.Join(b.brokers(), ","), name),
	}
}

// brokers are the addresses to learn the cluster from.
func (b *bench) brokers() []string {
	seeds, _ := b.kafka.OptValue(kgo.SeedBrokers).([]string)
	return seeds
}

func (b *bench) createTopic(ctx context.Context) error {
	partitions, replicas := orBroker(b.cfg.Partitions), orBroker(b.cfg.ReplicationFactor)
	resp, err := kadm.NewClient(b.kafka).CreateTopic(ctx, int32(partitions), int16(replicas), nil, b.names.Topic())
	if err != nil {
		if resp.ErrMessage != "" {
			err = fmt.Errorf("%w: %s", err, resp.ErrMessage)
		}
		return forbidden(err)
	}
	return b.describeTopic(ctx)
}

// orBroker is what leaves a number to the broker.
func orBroker(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// forbidden adds a hint to the error of a user who may not.
func forbidden(err error) error {
	if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed) {
		return &cdc.RefusedError{Err: err, Hint: topicHint}
	}
	return err
}

// describeTopic waits until brokers know the topic, and notes what it is like.
func (b *bench) describeTopic(ctx context.Context) error {
	for {
		topics, err := kadm.NewClient(b.kafka).ListTopics(ctx, b.names.Topic())
		if err == nil {
			err = topics.Error()
		}
		if parts := topics[b.names.Topic()].Partitions; err == nil && len(parts) > 0 {
			b.sum.Partitions, b.sum.Replicas = len(parts), len(parts[0].Replicas)
			return nil
		}
		if err != nil && !kerr.IsRetriable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (b *bench) deleteTopic(ctx context.Context, name string) error {
	_, err := kadm.NewClient(b.kafka).DeleteTopic(ctx, name)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil
	}
	return forbidden(err)
}

// kafkaVersion is what a broker's requests point to, or "unknown".
func (b *bench) kafkaVersion(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, kafkaTimeout)
	defer cancel()
	versions, err := kadm.NewClient(b.kafka).ApiVersions(ctx)
	guess := "unknown"
	if err == nil {
		for _, v := range versions.Sorted() {
			if v.Err == nil {
				guess = strings.TrimPrefix(v.VersionGuess(), "v")
			}
		}
	}
	return guess
}
