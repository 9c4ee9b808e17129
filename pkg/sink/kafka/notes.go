package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

// ErrUnusable is what [Notes] returns where only an operator can mend something: the
// topic is not there, or may not be read, written or created.
var ErrUnusable = errors.New("topic cannot be used")

// Notes keeps a small value for each key in the progress topic, beside the checkpoints
// there, whose keys it must not be given. It shares nothing with a [Sink], whose records
// never wait for a note.
//
// Its methods are safe for concurrent use, and each is bounded by its context.
type Notes struct {
	cfg    Config
	topic  progressTopic
	client *kgo.Client // asks and writes
}

// noteRetries bounds how often the client library sends a note again that the broker has
// not taken; a note that is lost is of the past when the next one comes.
const noteRetries = 2

// NewNotes returns Notes in a topic, which is [ProgressTopic] if none is given, or all
// problems of cfg. The topic is created when it is missing, if cfg creates topics. It
// does not dial. The Notes must be closed.
func NewNotes(cfg Config, topic string) (*Notes, error) {
	cfg = cfg.withDefaults()
	topic = cmp.Or(topic, ProgressTopic)
	var illegal error
	if !isTopicName(topic) {
		illegal = fmt.Errorf("topic %q is not a legal name", topic)
	}
	if err := errors.Join(illegal, cfg.validate()); err != nil {
		return nil, err
	}
	c, err := kgo.NewClient(append(cfg.connection(),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.DisableIdempotentWrite(), // a note may be written twice
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RecordRetries(noteRetries), kgo.UnknownTopicRetries(noteRetries),
		kgo.ProduceRequestTimeout(produceTimeout),
	)...)
	if err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	n := &Notes{cfg: cfg, client: c}
	n.topic = progressTopic{
		name: topic, replication: cfg.ReplicationFactor,
		client: func() *kgo.Client { return c }, connection: cfg.connection, log: cfg.Logger,
	}
	return n, nil
}

// Close ends the connections, and fails what is under way. Closing again does nothing.
func (n *Notes) Close() { n.client.Close() }

// Topic is the name of the topic.
func (n *Notes) Topic() string { return n.topic.name }

// Ping reports whether a broker answers.
func (n *Notes) Ping(ctx context.Context) error {
	if err := n.client.Ping(ctx); err != nil {
		return fmt.Errorf("kafka: no broker answers: %w", because(ctx, err))
	}
	return nil
}

// Check reports whether the topic keeps notes that may be read, or may be created with the
// first one. Whether they may be written it does not try. The error is [ErrUnusable] if that
// will not change by itself, or a [cdc.RefusedError] if the topic forgets.
func (n *Notes) Check(ctx context.Context) error {
	err := n.topic.check(ctx)
	if n.cfg.CreateTopics && errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil
	}
	if err == nil {
		_, err = n.Read(ctx, "check")
	}
	if err == nil {
		err = n.topic.checkPolicy(ctx)
	}
	if err != nil {
		return unusable(because(ctx, err))
	}
	return nil
}

// Read returns the last note of a key, or nil if there is none, as in a topic that is
// yet to be created. The error is [ErrUnusable] if that will not change by itself.
func (n *Notes) Read(ctx context.Context, key string) ([]byte, error) {
	l, err := n.topic.last(ctx, key)
	switch {
	case n.cfg.CreateTopics && errors.Is(err, kerr.UnknownTopicOrPartition):
		return nil, nil
	case err != nil:
		return nil, unusable(because(ctx, err))
	case l.record == nil:
		return nil, nil
	}
	return l.record.Value, nil
}

// Write replaces the note of a key, or with nil removes it. When it returns nil that is
// durable; after an error it may or may not be so. The error is [ErrUnusable] if that
// will not change by itself.
func (n *Notes) Write(ctx context.Context, key string, value []byte) error {
	err := n.topic.check(ctx)
	if n.cfg.CreateTopics && errors.Is(err, kerr.UnknownTopicOrPartition) {
		err = n.create(ctx)
	}
	if err != nil {
		return unusable(because(ctx, err))
	}
	r := &kgo.Record{Topic: n.topic.name, Partition: progressPartition, Key: []byte(key), Value: value, Timestamp: cdc.NoTimestamp}
	if err := n.client.ProduceSync(ctx, r).FirstErr(); err != nil {
		return unusable(fmt.Errorf("write to topic %s: %w", n.topic.name, because(ctx, err)))
	}
	return nil
}

// create creates the topic. What the cluster refuses, it refuses again.
func (n *Notes) create(ctx context.Context) error {
	err := n.topic.create(ctx)
	var refused *kerr.Error
	if errors.As(err, &refused) && !refused.Retriable {
		return fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	return err
}

// unusable marks an error that does not pass by itself.
func unusable(err error) error {
	if isForbidden(err) || errors.Is(err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	return err
}
