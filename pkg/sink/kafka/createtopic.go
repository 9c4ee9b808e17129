package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// newTopic is a topic to be created.
type newTopic struct {
	name        string
	partitions  int32 // -1 is the broker's default
	replication int   // the same
	settings    map[string]string

	// optional is the setting that the topic also works without. Some hosted clusters refuse
	// topics with settings of their own choice.
	optional string
}

// create creates the topic, without the optional setting if that is refused, and reports
// whether it did: one that is there already is no error.
func (n newTopic) create(ctx context.Context, c *kgo.Client, log *slog.Logger) (created bool, err error) {
	err = n.ask(ctx, c)
	if value, ok := n.settings[n.optional]; ok && (errors.Is(err, kerr.InvalidConfig) || errors.Is(err, kerr.PolicyViolation)) {
		refusal := err
		n.settings = maps.Clone(n.settings)
		delete(n.settings, n.optional)
		if err = n.ask(ctx, c); err == nil {
			log.Warn("the cluster does not take a setting of a new topic, created it without", "topic", n.name, "setting", n.optional, "value", value, "err", refusal)
		}
	}
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return false, nil
	}
	return err == nil, err
}

// ask asks the cluster once, and adds what it says to the error.
func (n newTopic) ask(ctx context.Context, c *kgo.Client) error {
	settings := make(map[string]*string, len(n.settings))
	for k, v := range n.settings {
		settings[k] = &v
	}
	resp, err := kadm.NewClient(c).CreateTopic(ctx, n.partitions, int16(n.replication), settings, n.name)
	if err != nil && resp.ErrMessage != "" {
		return fmt.Errorf("%w: %s", err, resp.ErrMessage)
	}
	return err
}
