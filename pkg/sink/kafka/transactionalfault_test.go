package kafka

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/pkg/cdc"
)

// Each request of a commit is refused once, for all topics or for one, by each error
// that is not for the client library to repeat: nothing is half there.
func TestTransactionalFaults(t *testing.T) {
	for _, at := range []kfake.Fault{
		{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true},
		{Keys: []kmsg.Key{kmsg.Produce}},
		{Keys: []kmsg.Key{kmsg.Produce}, Topic: testTopic},
		{Keys: []kmsg.Key{kmsg.Produce}, Topic: "walpost.progress"},
	} {
		for _, err := range []*kerr.Error{
			kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.InvalidTxnState, kerr.TransactionAbortable, kerr.InvalidProducerIDMapping,
			kerr.UnknownProducerID, kerr.OutOfOrderSequenceNumber, kerr.UnknownTopicID, kerr.InvalidRecord, kerr.MessageTooLarge,
		} {
			at.Err = err
			t.Run(at.Keys[0].Name()+" "+at.Topic+" "+err.Message, func(t *testing.T) {
				t.Parallel()
				testHalf(t, at)
			})
		}
	}
}

// testHalf tries again if something else went wrong before the fault was met.
func testHalf(t *testing.T, fault kfake.Fault) {
	for tries := 1; !half(t, fault); tries++ {
		if tries == 3 {
			t.Fatal("the fault was not met")
		}
	}
}

func half(t *testing.T, fault kfake.Fault) bool {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	x := acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs()}, ""))
	a := new(answers)
	put(t, x, a, testTopic, "1")
	if err := x.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := c.Fault(fault)
	err := x.Produce(t.Context(), record(testTopic, "k", "2"), a.done)
	if err == nil {
		err = x.Save(within(t, testTimeout), pos(10))
	}
	if h.Remove(); h.Hits() == 0 {
		t.Logf("the fault was not met: %v", err)
		return false
	}
	cp, aerr := x.Acquire(t.Context())
	if aerr != nil {
		t.Fatal(aerr)
	}
	want, wantPos := "[]", cdc.Position{}
	if err == nil {
		want, wantPos = "[1 2]", pos(10)
	}
	if got := fmt.Sprint(committedValues(t, c.ListenAddrs(), testTopic)); got != want || cp.Position != wantPos {
		t.Errorf("after %v: committed %s at %s, want %s at %s", err, got, cp.LSN, want, wantPos.LSN)
	}
	return true
}

// A wait for a topic is told of before it, once, if there is something to commit meanwhile;
// then the record waits in a transaction that has nothing else.
func TestTransactionalTellsOfWait(t *testing.T) {
	c := newCluster(t, kfake.SeedTopics(1, testTopic))
	x := acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs()}, ""))
	a := new(answers)
	put(t, x, a, testTopic, "1")
	late := record("late", "k", "2")
	if err := x.Produce(within(t, testTimeout), late, a.done); !errors.Is(err, cdc.ErrWait) {
		t.Fatalf("Produce() = %v, want ErrWait", err)
	}
	if err := x.Save(within(t, testTimeout), pos(10)); err != nil {
		t.Fatal(err)
	}
	if err := x.Produce(within(t, 300*time.Millisecond), late, a.done); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Produce() = %v, want that it waits", err)
	}
	produced := make(chan error, 1)
	go func() { produced <- x.Produce(within(t, testTimeout), late, a.done) }()
	if err := c.CreateTopic("late", 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-produced; err != nil {
		t.Fatal(err)
	}
	if err := x.Save(within(t, testTimeout), pos(20)); err != nil {
		t.Fatal(err)
	}
	if got := committedValues(t, c.ListenAddrs(), "late"); len(got) != 1 {
		t.Errorf("committed %v, want 2 once", got)
	}
}
