package kafka

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// loading are the topics that a client has met in the open transaction. The client library, as of
// 1.22.3, sends what has waited for the partitions of a topic a moment before it stores these. If
// the transaction ends within the moment, their sequence numbers do not begin anew with the next
// epoch, and the broker refuses the next record there, OUT_OF_ORDER_SEQUENCE_NUMBER, which costs
// its transaction. So a commit waits until they are stored.
// https://github.com/twmb/franz-go/blob/v1.22.3/pkg/kgo/topics_and_partitions.go, storePartitionsUpdate
type loading struct {
	mu       sync.Mutex
	topics   []string    // guarded by mu
	progress *kgo.Client // the last that has loaded the progress topic; guarded by mu
}

const (
	loadedPoll = time.Millisecond

	// loadedTimeout bounds the wait for a topic, of which a partition may have lost its leader.
	loadedTimeout = time.Second
)

// sent notes that c writes to t for the first time. It must be called while feeding.
func (l *loading) sent(t *topic, c *kgo.Client) {
	if t.client == c {
		return
	}
	t.client = c
	l.mu.Lock()
	defer l.mu.Unlock()
	l.topics = append(l.topics, t.name)
}

// take returns the topics to wait for.
func (l *loading) take(progress string, c *kgo.Client) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	topics := l.topics
	l.topics = nil
	if l.progress != c {
		l.progress = c
		topics = append(topics, progress)
	}
	return topics
}

// wait waits, until ctx is done, for c to have stored the partitions of the topics that it has met,
// and that it has written to: all records have been acknowledged.
func (l *loading) wait(ctx context.Context, progress string, c *kgo.Client) error {
	for _, topic := range l.take(progress, c) {
		for began := time.Now(); !isLoaded(c, topic) && time.Since(began) < loadedTimeout; {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(loadedPoll):
			}
		}
	}
	return nil
}

func isLoaded(c *kgo.Client, topic string) bool {
	leader, _, _ := c.PartitionLeader(topic, 0)
	return leader >= 0
}
