package kafka

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// openTransaction is what a sink that writes in transactions knows about the open
// one. All methods may be called from any goroutine, and check with nil, for a
// sink that does not.
type openTransaction struct {
	name     string // transactional id
	progress string // the topic that each transaction writes to
	asks     *Sink  // whose client asks, and writes nothing

	filled       atomic.Bool // a record was sent since it began, or since a wait was told of
	verification verification
	loading      loading

	mu    sync.Mutex
	id    int64 // the producer's, as it was when the transaction began; guarded by mu
	epoch int16 // guarded by mu
	acks  []ack // guarded by mu
	share bool  // several transactions have an epoch, as far as is known; guarded by mu
}

// ack is a record in the transaction, to be counted when it is committed.
type ack struct {
	topic     *topic
	committed int64 // when its event was, in Unix ns
}

// begin notes whose the transaction is.
func (x *openTransaction) begin(id int64, epoch int16) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.id, x.epoch = id, epoch
	x.acks = x.acks[:0]
	x.filled.Store(false)
}

// fill notes that a record is sent.
func (x *openTransaction) fill() {
	if !x.filled.Load() {
		x.filled.Store(true)
	}
}

// check fails if a record was written in another epoch than its transaction began
// in. The client library takes a new one by itself after some errors; the cluster
// has then aborted the transaction, and what is left of it must not be committed.
func (x *openTransaction) check(r *kgo.Record) error {
	if x == nil {
		return nil
	}
	return x.same(r.ProducerID, r.ProducerEpoch)
}

func (x *openTransaction) same(id int64, epoch int16) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if id != x.id || epoch != x.epoch {
		return fmt.Errorf("transaction of producer %d epoch %d was aborted: now writing as %d epoch %d", x.id, x.epoch, id, epoch)
	}
	return nil
}

// alone returns who wrote the transaction that c has just committed, or nobody if others
// may have had the same epoch. The client has the next one already if each has its own.
func (x *openTransaction) alone(c *kgo.Client) producer {
	id, epoch, err := c.ProducerID(context.Background()) // known: it asks nobody
	x.mu.Lock()
	defer x.mu.Unlock()
	x.share = err != nil || id == x.id && epoch == x.epoch
	if x.share {
		return nobody
	}
	return producer{x.id, x.epoch}
}

// sharesEpoch reports whether several transactions have the same epoch.
func (x *openTransaction) sharesEpoch() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.share
}

// acknowledged notes d.
func (x *openTransaction) acknowledged(d *delivery) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.acks = append(x.acks, ack{d.topic, d.record.CommitTime.UnixNano()})
}

// committed counts what is in the transaction.
func (x *openTransaction) committed(now time.Time, m *metrics) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, a := range x.acks {
		a.topic.processed.Inc()
		m.latency.Observe(max(0, now.Sub(time.Unix(0, a.committed))).Seconds())
	}
	x.acks = x.acks[:0]
}
