// Package sinktest is the contract of [cdc.Sink] as a test suite, and a sink in
// memory that keeps it.
package sinktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// Harness is a fresh sink to be tested, with the means to look behind it. What
// it opened is closed by t.Cleanup.
type Harness struct {
	Sink cdc.Sink

	// Topic exists, is empty, and has this many partitions, at least two.
	Topic      string
	Partitions int

	// Read returns what is durable in Topic, by partition and in order, with
	// Key, Value, Headers, Partition and Timestamp set.
	Read func(t *testing.T) [][]cdc.Record

	// Outage, if not nil, makes the sink's other side unreachable, or
	// reachable again.
	Outage func(on bool)

	// Full, needed with Outage, is a number of records with values of 1 kB
	// that do not fit into the sink during an outage.
	Full int

	// Oversize is a size of value that Topic never takes.
	Oversize int

	// Refuse, if not nil, makes the other side refuse what it gets next, for
	// good.
	Refuse func()
}

// timeout bounds every wait for something that must happen.
const timeout = 30 * time.Second

// short is how long something must not happen.
const short = 50 * time.Millisecond

// Run checks the contract. newHarness is called once for each test.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *rig)
	}{
		{"delivers each record once", testOnce},
		{"keeps the order of a key", testOrder},
		{"changes no byte", testBytes},
		{"sends to the partition asked for", testPartition},
		{"sends a key where the Java client does", testKeyed},
		{"delivers though the context ends after Produce", testContext},
		{"flushes nothing at once", testFlushEmpty},
		{"flushes all, and what comes after", testFlush},
		{"refuses what is too large", testOversize},
		{"refuses a partition that does not exist", testNoPartition},
		{"ends a wait for space with the context", testFullContext},
		{"ends a wait for space when there is some", testFullSpace},
		{"ends a flush with the context", testFlushContext},
		{"delivers in order after an outage", testOutage},
		{"takes no more after a refusal", testRefusal},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &rig{Harness: newHarness(t), answers: make(map[*cdc.Record][]error)}
			test.run(t, r)
		})
	}
}

// rig is a harness and what its sink has answered.
type rig struct {
	Harness
	mu      sync.Mutex
	answers map[*cdc.Record][]error // guarded by mu
	order   []error                 // guarded by mu; the errors among them, as they came
}

func (r *rig) done(rec *cdc.Record, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[rec] = append(r.answers[rec], err)
	if err != nil {
		r.order = append(r.order, err)
	}
}

func (r *rig) answered(rec *cdc.Record) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answers[rec]
}

func (r *rig) record(key, value string) *cdc.Record {
	rec := cdc.NewRecord()
	rec.Topic = r.Topic
	rec.Key, rec.Value = []byte(key), []byte(value)
	rec.Timestamp = time.UnixMilli(1_700_000_000_123)
	rec.CommitTime = rec.Timestamp
	return rec
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}

func (r *rig) produce(t *testing.T, rec *cdc.Record) {
	t.Helper()
	if err := r.Sink.Produce(within(t), rec, r.done); err != nil {
		t.Fatalf("Produce() = %v", err)
	}
}

func (r *rig) flush(t *testing.T) {
	t.Helper()
	if err := r.Sink.Flush(within(t)); err != nil {
		t.Fatalf("Flush() = %v", err)
	}
}

// values returns the values of what is durable, by partition.
func (r *rig) values(t *testing.T) [][]string {
	var out [][]string
	for _, p := range r.Read(t) {
		var values []string
		for i := range p {
			values = append(values, string(p[i].Value))
		}
		out = append(out, values)
	}
	return out
}

// only returns the one record that is durable.
func (r *rig) only(t *testing.T) cdc.Record {
	t.Helper()
	var all []cdc.Record
	for _, p := range r.Read(t) {
		all = append(all, p...)
	}
	if len(all) != 1 {
		t.Fatalf("%d records are durable, want 1", len(all))
	}
	return all[0]
}

func testOnce(t *testing.T, r *rig) {
	const n = 500
	var recs []*cdc.Record
	for i := range n {
		rec := r.record(fmt.Sprint("key", i%17), fmt.Sprint(i))
		recs = append(recs, rec)
		r.produce(t, rec)
	}
	r.flush(t)
	for i, rec := range recs {
		if got := r.answered(rec); len(got) != 1 || got[0] != nil {
			t.Fatalf("record %d: done was called with %v, want once, with nil", i, got)
		}
	}
	seen := make(map[string]int)
	for _, p := range r.values(t) {
		for _, v := range p {
			seen[v]++
		}
	}
	for i := range n {
		if got := seen[fmt.Sprint(i)]; got != 1 {
			t.Errorf("record %d is there %d times, want once", i, got)
		}
	}
}

func testOrder(t *testing.T, r *rig) {
	const n = 1000
	for i := range n {
		r.produce(t, r.record(fmt.Sprint("key", i%23), fmt.Sprint(i)))
	}
	r.flush(t)
	r.checkOrder(t, n)
}

// checkOrder checks that records 0 to n-1, whose values are their numbers, are
// all durable, and in that order for each key.
func (r *rig) checkOrder(t *testing.T, n int) {
	t.Helper()
	last := make(map[string]int)
	count := 0
	for _, p := range r.Read(t) {
		for i := range p {
			var v int
			if _, err := fmt.Sscan(string(p[i].Value), &v); err != nil {
				t.Fatalf("value %q: %v", p[i].Value, err)
			}
			key := string(p[i].Key)
			if before, ok := last[key]; ok && v <= before {
				t.Errorf("key %s: record %d comes after %d", key, v, before)
			}
			last[key] = v
			count++
		}
	}
	if count != n {
		t.Errorf("%d records are durable, want %d", count, n)
	}
}

func testBytes(t *testing.T, r *rig) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	at := time.UnixMilli(1_234_567_890_987)
	for _, want := range []cdc.Record{
		{Key: []byte("k"), Value: every, Timestamp: at},
		{Key: every, Value: []byte{}, Timestamp: at},
		{Key: []byte("k"), Value: nil, Timestamp: at},
		{Key: []byte{}, Value: []byte("v"), Timestamp: at},
		{Key: []byte("k"), Value: bytes.Repeat(every, 1000), Timestamp: time.UnixMilli(0)},
		{Key: []byte("k"), Value: []byte("v"), Timestamp: at, Headers: []cdc.Header{
			{Key: "id", Value: every}, {Key: "empty", Value: []byte{}}, {Key: "null"}, {Key: "id", Value: []byte("twice")}, {Key: "", Value: []byte("x")},
		}},
	} {
		rec := cdc.NewRecord()
		rec.Topic, rec.Partition = r.Topic, 0
		rec.Key, rec.Value, rec.Headers, rec.Timestamp, rec.CommitTime = want.Key, want.Value, want.Headers, want.Timestamp, want.Timestamp
		r.produce(t, rec)
		r.flush(t)
		p := r.Read(t)[0]
		if len(p) == 0 {
			t.Fatal("nothing is durable")
		}
		compare(t, &p[len(p)-1], &want)
	}
}

func compare(t *testing.T, got, want *cdc.Record) {
	t.Helper()
	if !same(got.Key, want.Key) {
		t.Errorf("key = %q, want %q", got.Key, want.Key)
	}
	if !same(got.Value, want.Value) {
		t.Errorf("value = %.300q, want %.300q", got.Value, want.Value)
	}
	if !got.Timestamp.Equal(want.Timestamp) {
		t.Errorf("timestamp = %s, want %s", got.Timestamp, want.Timestamp)
	}
	if len(got.Headers) != len(want.Headers) {
		t.Fatalf("%d headers, want %d", len(got.Headers), len(want.Headers))
	}
	for i, h := range want.Headers {
		if g := got.Headers[i]; g.Key != h.Key || !same(g.Value, h.Value) {
			t.Errorf("header %d = %q: %q, want %q: %q", i, g.Key, g.Value, h.Key, h.Value)
		}
	}
}

// same tells nil from empty.
func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func testPartition(t *testing.T, r *rig) {
	for i := range r.Partitions {
		rec := r.record("the same key", fmt.Sprint(i))
		rec.Partition = int32(i)
		r.produce(t, rec)
	}
	r.flush(t)
	for i, p := range r.values(t) {
		if len(p) != 1 || p[0] != fmt.Sprint(i) {
			t.Errorf("partition %d holds %v, want %d", i, p, i)
		}
	}
}

func testKeyed(t *testing.T, r *rig) {
	for i := range 100 {
		r.produce(t, r.record(fmt.Sprint("key-", i), fmt.Sprint(i)))
	}
	r.flush(t)
	for i, p := range r.Read(t) {
		for j := range p {
			if want := Partition(p[j].Key, r.Partitions); i != want {
				t.Errorf("key %s is in partition %d, want %d", p[j].Key, i, want)
			}
		}
	}
}

func testContext(t *testing.T, r *rig) {
	ctx, cancel := context.WithCancel(within(t))
	rec := r.record("k", "v")
	if err := r.Sink.Produce(ctx, rec, r.done); err != nil {
		t.Fatalf("Produce() = %v", err)
	}
	cancel()
	r.flush(t)
	if got := r.answered(rec); len(got) != 1 || got[0] != nil {
		t.Errorf("done was called with %v, want once, with nil", got)
	}
	if got := string(r.only(t).Value); got != "v" {
		t.Errorf("value = %q, want v", got)
	}
}

func testFlushEmpty(t *testing.T, r *rig) { r.flush(t) }

func testFlush(t *testing.T, r *rig) {
	for i := range 3 {
		rec := r.record("k", fmt.Sprint(i))
		r.produce(t, rec)
		r.flush(t)
		if got := r.answered(rec); len(got) != 1 {
			t.Errorf("after a flush done was called %d times, want once", len(got))
		}
	}
	r.checkOrder(t, 3)
}

func testOversize(t *testing.T, r *rig) {
	r.checkPoison(t, r.record("k", string(make([]byte, r.Oversize))), cdc.PoisonOversize)
}

func testNoPartition(t *testing.T, r *rig) {
	rec := r.record("k", "v")
	rec.Partition = int32(r.Partitions)
	r.checkPoison(t, rec, cdc.PoisonRow)
}

// checkPoison checks that the sink refuses rec for reason, and takes others.
func (r *rig) checkPoison(t *testing.T, rec *cdc.Record, reason cdc.PoisonReason) {
	t.Helper()
	err := r.Sink.Produce(within(t), rec, r.done)
	var poison *cdc.PoisonError
	if !errors.As(err, &poison) || poison.Reason != reason {
		t.Fatalf("Produce() = %v, want poison for reason %s", err, reason)
	}
	r.produce(t, r.record("k", "next"))
	r.flush(t)
	if got := r.answered(rec); got != nil {
		t.Errorf("done was called with %v for a record that was not taken", got)
	}
	if got := string(r.only(t).Value); got != "next" {
		t.Errorf("value = %q, want next", got)
	}
}
