package kafka

import (
	"fmt"
	"hash/crc32"
	"testing"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
)

// forgetful starts a broker that takes what no transaction knows of: what is written
// there is left open, as after a crash in which the coordinator has forgotten it.
func forgetful(t *testing.T) []string {
	t.Helper()
	return envtest.NewKafka(t, testenv.KafkaConfig{Properties: map[string]string{"transaction.partition.verification.enable": "false"}}).Addrs()
}

// savedOnForgetful has a topic with the event 1 on such a broker, saved at 10.
func savedOnForgetful(t *testing.T) (x *Transactional, addrs []string, topic, progress string) {
	t.Helper()
	addrs = forgetful(t)
	topic, progress = envtest.CreateTopic(t, addrs, 1, nil), envtest.Name(t)
	x = acquired(t, newTransactional(t, Config{Brokers: addrs}, progress))
	put(t, x, new(answers), topic, "1")
	saveMarked(t, x, addrs, topic)
	return x, addrs, topic, progress
}

// saveMarked saves 10, and waits for the marker: what is written beside a transaction before
// the marker of the last one confuses the broker.
func saveMarked(t *testing.T, x *Transactional, addrs []string, topic string) {
	t.Helper()
	if err := x.Save(within(t, testTimeout), pos(10)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the marker is written", func() bool { return stable(t, addrs, topic) })
}

// writeForgotten writes a record into partition 0 as x, beside its transaction.
func writeForgotten(t *testing.T, x *Transactional, addrs []string, topic, key, value string) {
	t.Helper()
	id, epoch, err := x.current.Load().client.Load().ProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := kmsg.NewRecord()
	r.Key, r.Value = []byte(key), []byte(value)
	body := r.AppendTo(nil)
	r.Length = int32(len(body) - 1) // its own length, 0, took one byte
	batch := kmsg.RecordBatch{
		Magic: 2, Attributes: 1 << 4, PartitionLeaderEpoch: -1, ProducerID: id, ProducerEpoch: epoch, NumRecords: 1,
		Records: r.AppendTo(nil),
	}
	batch.Length = int32(len(batch.AppendTo(nil)) - 12)
	raw := batch.AppendTo(nil)
	sum := crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli))
	copy(raw[17:], kbin.AppendUint32(nil, sum))

	req := kmsg.NewPtrProduceRequest()
	req.TransactionID, req.Acks, req.TimeoutMillis = &x.current.Load().txn.name, -1, 5000
	rt, rp := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	rp.Records = raw
	rt.Topic, rt.Partitions = topic, append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.Produce), 11) // 12 would add the partition to the transaction
	c, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.MaxVersions(versions))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	resp, err := req.RequestWith(t.Context(), c)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		t.Fatalf("write beside the transaction: %v", err)
	}
}

// What brokers have left open is aborted, position and events, if the position was not
// committed: else the next commit would commit it too.
func TestLeftOpenIsAborted(t *testing.T) {
	x, addrs, topic, progress := savedOnForgetful(t)
	writeForgotten(t, x, addrs, topic, "k", "2")
	writeForgotten(t, x, addrs, progress, "7-s", `{"slot":"s","system_id":"7","timeline":1,"lsn":"0/14","epoch":1}`)
	if stable(t, addrs, topic) || stable(t, addrs, progress) {
		t.Fatal("nothing is left open: the test shows nothing")
	}
	cp, err := x.Acquire(t.Context())
	if err != nil || cp.Position != pos(10) {
		t.Fatalf("Acquire() = %+v, %v, want what was saved", cp, err)
	}
	put(t, x, new(answers), topic, "2")
	if err := x.Save(t.Context(), pos(20)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(committedValues(t, addrs, topic)); got != "[1 2]" {
		t.Errorf("committed: %s, want each once", got)
	}
	if !stable(t, addrs, progress) {
		t.Error("the progress topic is left open")
	}
}

// What belongs to a position that was committed is committed, also by a process that
// meets the topic later.
func TestLeftOpenIsCommitted(t *testing.T) {
	addrs := forgetful(t)
	known, later, progress := envtest.CreateTopic(t, addrs, 1, nil), envtest.CreateTopic(t, addrs, 1, nil), envtest.Name(t)
	x := acquired(t, newTransactional(t, Config{Brokers: addrs}, progress))
	a := new(answers)
	put(t, x, a, known, "1")
	writeForgotten(t, x, addrs, later, "k", "1")
	if err := x.Save(t.Context(), pos(10)); err != nil {
		t.Fatal(err)
	}
	if stable(t, addrs, later) {
		t.Fatal("nothing is left open: the test shows nothing")
	}
	_ = x.Close()
	x = acquired(t, newTransactional(t, Config{Brokers: addrs}, progress))
	if err := x.Produce(t.Context(), record(later, "k", "2"), a.done); err == nil {
		t.Fatal("Produce() = nil into a topic in which a transaction is open")
	}
	if cp, err := x.Acquire(t.Context()); err != nil || cp.Position != pos(10) {
		t.Fatalf("Acquire() = %+v, %v, want what was saved", cp, err)
	}
	put(t, x, a, later, "2")
	if err := x.Save(t.Context(), pos(20)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(committedValues(t, addrs, later)); got != "[1 2]" {
		t.Errorf("committed: %s, want each once", got)
	}
}

// A commit that was answered is one, though the brokers have forgotten its markers:
// its position may be confirmed.
func TestLeftOpenAfterAnswer(t *testing.T) {
	x, addrs, topic, _ := savedOnForgetful(t)
	writeForgotten(t, x, addrs, topic, "k", "2")
	id, epoch, err := x.current.Load().client.Load().ProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	x.wrote = producer{id, epoch} // as if that were in the last transaction
	if _, err := x.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(committedValues(t, addrs, topic)); got != "[1 2]" {
		t.Errorf("committed: %s, want [1 2]", got)
	}
}

// A position that was committed and has no marker is the position: the coordinator knows,
// also after the process has ended, and what has the marker is not published again.
func TestLeftOpenPosition(t *testing.T) {
	addrs := forgetful(t)
	topic, progress := envtest.CreateTopic(t, addrs, 1, nil), envtest.Name(t)
	x := acquired(t, newTransactional(t, Config{Brokers: addrs}, progress))
	if err := x.Save(t.Context(), pos(5)); err != nil {
		t.Fatal(err)
	}
	// A transaction whose position has lost its marker.
	put(t, x, new(answers), topic, "1")
	if err := x.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	writeForgotten(t, x, addrs, progress, "7-s", `{"slot":"s","system_id":"7","timeline":1,"lsn":"0/A","epoch":1}`)
	if err := x.current.Load().client.Load().EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	x.discard(ErrClosed) // as a process that ends here, with its id still its own
	other := newTransactional(t, Config{Brokers: addrs}, progress)
	if cp, err := other.Load(t.Context()); err != nil || cp.Position != pos(10) {
		t.Errorf("Load() = %+v, %v, want what was committed", cp, err)
	}
	if cp, err := other.Acquire(t.Context()); err != nil || cp.Position != pos(10) {
		t.Errorf("Acquire() = %+v, %v, want what was committed", cp, err)
	}
	if !stable(t, addrs, progress) {
		t.Error("the progress topic is left open")
	}
}

// Partitions that a topic was given since it was met are looked at too.
func TestLeftOpenInNewPartition(t *testing.T) {
	x, addrs, topic, _ := savedOnForgetful(t)
	s := x.current.Load()
	s.topics.known[topic].partitions = 0 // as if it had been met before it had this one
	writeForgotten(t, x, addrs, topic, "k", "2")
	if _, err := x.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !stable(t, addrs, topic) {
		t.Error("the new partition is left open")
	}
}

// A marker that ends two transactions, of which brokers had left one open, decides both.
func TestScannerOfTwo(t *testing.T) {
	record := func(offset int64, epoch int16) *kgo.Record {
		return &kgo.Record{Key: []byte("k"), Offset: offset, ProducerID: 1, ProducerEpoch: epoch, Attrs: kgo.RecordAttrs{}}
	}
	s := scanner{key: "k", end: 10, stable: 10, open: map[int64][]*kgo.Record{}, fates: fates{}}
	for _, r := range []*kgo.Record{record(0, 10), record(1, 11)} {
		s.open[1] = append(s.open[1], r)
		s.fates.seen(r)
	}
	for _, held := range s.open[1] {
		s.keep(held)
		s.fates.committed(held, record(2, 12))
	}
	delete(s.open, 1)
	for _, epoch := range []int16{10, 11} {
		if committed, known := s.fates.of(producer{1, epoch}); !committed || !known {
			t.Errorf("epoch %d: committed %t, known %t", epoch, committed, known)
		}
	}
	if s.result().Offset != 1 {
		t.Errorf("the last is at %d", s.result().Offset)
	}
}

// Whether a transaction was committed is read from its marker in the progress topic,
// and is not known of one that is older than all that was read.
func TestFates(t *testing.T) {
	f := make(fates)
	write := func(epoch int16) *kgo.Record { return &kgo.Record{ProducerID: 1, ProducerEpoch: epoch} }
	for epoch := int16(10); epoch <= 14; epoch++ {
		f.seen(write(epoch))
	}
	f.committed(write(10), write(11))
	f.committed(write(12), write(12)) // of a broker that gives no epoch to each
	for _, tt := range []struct {
		p                producer
		committed, known bool
	}{
		{producer{1, 9}, false, false},
		{producer{1, 10}, true, true},
		{producer{1, 11}, false, true},
		{producer{1, 12}, false, false},
		{producer{1, 20}, false, true},
		{producer{2, 11}, false, false},
	} {
		if committed, known := f.of(tt.p); committed != tt.committed || known != tt.known {
			t.Errorf("of(%v) = %t, %t, want %t, %t", tt.p, committed, known, tt.committed, tt.known)
		}
	}
}
