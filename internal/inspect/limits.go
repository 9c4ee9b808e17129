package inspect

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Limits are settings of walpost's that the brokers have to allow.
type Limits struct {
	MessageBytes       int           // kafka.max_message_bytes; zero leaves it to each topic
	TransactionTimeout time.Duration // zero if there are no transactions
	Replicas           int           // kafka.replication_factor, of topics that walpost creates; zero leaves it to the brokers
}

// limits compares walpost's settings with those of each broker.
func (k *Kafka) limits(ctx context.Context) (*Check, error) {
	if len(k.ids) == 0 {
		return nil, nil // no broker has answered
	}
	if k.CreateTopics && k.Limits.Replicas > len(k.ids) {
		return k.creating("lower kafka.replication_factor, or add brokers", "kafka.replication_factor is %d, and there are %d brokers: no topic can be created", k.Limits.Replicas, len(k.ids))
	}
	configs, err := k.Admin.DescribeBrokerConfigs(ctx, k.ids...)
	if errors.Is(err, kerr.ClusterAuthorizationFailed) {
		return ok("not looked at, since DescribeConfigs on the cluster is not allowed")
	}
	if err != nil {
		return fail("look after the brokers", "the brokers' settings cannot be read: %v", err)
	}
	for _, c := range configs {
		if c.Err != nil {
			return fail("look after the brokers", "the settings of broker %s cannot be read: %v", c.Name, c.Err)
		}
		if found := k.exceeds(c); found != nil {
			return found, nil
		}
	}
	return ok("the brokers allow what is set")
}

// creating is what stands in the way of a topic that is to be created: a failure if there is
// none yet.
func (k *Kafka) creating(mend, format string, args ...any) (*Check, error) {
	if len(k.ours()) > 0 {
		return warn(mend, format, args...)
	}
	return fail(mend, format, args...)
}

// exceeds returns what a broker does not allow, or nil.
func (k *Kafka) exceeds(c kadm.ResourceConfig) *Check {
	var found *Check
	set, value := k.Limits, valuesOf(c)
	number := func(key string) (n int64, ok bool) {
		n, err := strconv.ParseInt(value[key], 10, 64)
		return n, err == nil
	}
	if n, ok := number("transaction.max.timeout.ms"); ok && set.TransactionTimeout.Milliseconds() > n {
		found, _ = fail("lower kafka.transaction_timeout, or raise transaction.max.timeout.ms", "kafka.transaction_timeout is %s, and broker %s takes at most %s: no transaction can begin",
			set.TransactionTimeout, c.Name, time.Duration(n)*time.Millisecond)
		return found
	}
	if !k.CreateTopics {
		return nil // what a topic has set is judged with it
	}
	if n, ok := number("message.max.bytes"); ok && int64(set.MessageBytes) > n {
		found, _ = k.creating("lower kafka.max_message_bytes, or raise message.max.bytes", "kafka.max_message_bytes is %d, and a topic that is created takes %d on broker %s: larger batches would be refused", set.MessageBytes, n, c.Name)
		return found
	}
	replicas := int64(set.Replicas)
	if n, ok := number("default.replication.factor"); ok && replicas == 0 {
		replicas = n
	}
	if n, ok := number("min.insync.replicas"); ok && replicas > 0 && n > replicas {
		found, _ = k.creating("raise kafka.replication_factor to at least min.insync.replicas", "a topic that is created has %d replicas, and min.insync.replicas is %d on broker %s: nothing could be written", replicas, n, c.Name)
	}
	return found
}

// valuesOf are a resource's settings that have a value.
func valuesOf(c kadm.ResourceConfig) map[string]string {
	values := map[string]string{}
	for _, e := range c.Configs {
		if e.Value != nil {
			values[e.Key] = *e.Value
		}
	}
	return values
}
