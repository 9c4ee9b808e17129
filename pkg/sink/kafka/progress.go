package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

// The progress topic keeps, under the key <system identifier>-<slot>, a JSON
// object: the checkpoint, the topics, and the slot and the owner for people. All is in
// partition 0, so that a topic that is given more partitions loses nothing.
const progressPartition = 0

// ProgressTopic is the name of the progress topic, unless another is given.
const ProgressTopic = "walpost.progress"

// content is the value of a record of the progress topic.
type content struct {
	Slot  string `json:"slot"`
	Owner string `json:"owner"`
	cdc.Checkpoint

	// Topics are those that its transaction may have written to, so that the next process
	// looks there for what brokers have left open. Empty if there were too many.
	Topics []string `json:"topics,omitempty"`

	key string
}

// maxTopicsKept bounds the topics in a record.
const maxTopicsKept = 64

func (c content) record(topic string) (*kgo.Record, error) {
	value, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("make progress record: %w", err)
	}
	return &kgo.Record{Topic: topic, Partition: progressPartition, Key: []byte(c.key), Value: value, Timestamp: cdc.NoTimestamp}, nil
}

// createMissing creates the progress topic, unless it is there.
func (t *Transactional) createMissing(ctx context.Context) error {
	err := t.topic.check(ctx)
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return t.topic.create(ctx)
	case err != nil:
		return err
	}
	return t.topic.checkPolicy(ctx)
}

// replication returns the replication factor of created topics.
func (c Config) replication() int { return c.withDefaults().ReplicationFactor }

// found is what the progress topic says of a key.
type found struct {
	content

	fates   fates       // of the transactions that were read
	pending *kgo.Record // the last of a transaction that is not decided, or nil
}

// read returns what was last committed for key, or zero if nothing was.
func (t *Transactional) read(ctx context.Context, key string) (f found, err error) {
	l, err := t.topic.last(ctx, key)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return f, nil
	}
	f.fates, f.pending = l.fates, l.pending
	if err == nil && l.record != nil {
		f.content, err = parseContent(t.cfg.Topic, l.record)
	}
	return f, err
}

func parseContent(topic string, r *kgo.Record) (content, error) {
	c := content{key: string(r.Key)}
	err := json.Unmarshal(r.Value, &c)
	if err == nil && c.Epoch < 1 {
		err = fmt.Errorf("its epoch is %d", c.Epoch)
	}
	if err != nil {
		return content{}, &cdc.RefusedError{
			Err:  fmt.Errorf("read topic %s: record at offset %d is not a checkpoint: %w", topic, r.Offset, err),
			Hint: "choose another checkpoint.topic, which only walpost writes to",
		}
	}
	return c, nil
}
