package kafka

import (
	"context"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

// delivery is a record on its way. It is its kgo.Record's own context, by which
// the shared promise finds it, and is used again for another record: what a
// context is asked for does not change with the record.
type delivery struct {
	kgo.Record
	sink *Sink

	record *cdc.Record
	done   func(*cdc.Record, error)
	topic  *topic
	size   int64

	partition atomic.Int32 // that was chosen, or -1; set by the partitioner
	links     links        // guarded by the flight's mu

	refusal error // the broker's answer to a batch that this record was in or behind; owned by who has the orphans
}

// maxKeptHeaders is the largest capacity for headers that is kept.
const maxKeptHeaders = 64

func (s *Sink) newDelivery() *delivery {
	if d := s.deliveries.Get(); d != nil {
		return d
	}
	return &delivery{sink: s}
}

// prepare makes the kgo.Record.
func (d *delivery) prepare() {
	r := d.record
	headers := d.Headers[:0]
	for i := range r.Headers {
		headers = append(headers, kgo.RecordHeader{Key: r.Headers[i].Key, Value: r.Headers[i].Value})
	}
	d.Record = kgo.Record{
		Topic: d.topic.name, Partition: r.Partition, Key: r.Key, Value: r.Value,
		Headers: headers, Timestamp: r.Timestamp, Context: d,
	}
}

func (d *delivery) clear() {
	headers := d.Headers[:0]
	if cap(headers) > maxKeptHeaders {
		headers = nil
	}
	clear(d.Headers)
	d.Record = kgo.Record{Headers: headers}
	d.record, d.done, d.topic, d.refusal = nil, nil, nil, nil
}

// memory is what d takes once it is cleared.
func (d *delivery) memory() int {
	return int(unsafe.Sizeof(*d)) + cap(d.Headers)*int(unsafe.Sizeof(kgo.RecordHeader{}))
}

// Deadline implements [context.Context].
func (*delivery) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements [context.Context]. The client library looks at it before it
// sends a batch for the first time.
func (d *delivery) Done() <-chan struct{} {
	if d.sink.narrowing.Load() {
		return closed
	}
	return d.sink.quit
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Err implements [context.Context].
func (d *delivery) Err() error {
	select {
	case <-d.Done():
		return context.Canceled
	default:
		return nil
	}
}

// Value implements [context.Context].
func (*delivery) Value(any) any { return nil }
