package kafka

import (
	"fmt"
	"testing"
)

// The sequence numbers of a topic that a transaction has met begin anew in the next epoch, as
// quickly as brokers may have answered: many topics, for it takes chance to be too early.
func TestTransactionsOfNewTopics(t *testing.T) {
	c := newCluster(t)
	x := acquired(t, newTransactional(t, Config{Brokers: c.ListenAddrs(), CreateTopics: true}, ""))
	for i := range 250 {
		topic := fmt.Sprint("topic", i)
		for j := range 2 {
			a := new(answers)
			if err := x.Produce(t.Context(), record(topic, "k", "v"), a.done); err != nil {
				t.Fatal(err)
			}
			if err := x.Save(within(t, testTimeout), pos(1)); err != nil {
				t.Fatalf("transaction %d of %s: %v", j+1, topic, err)
			}
		}
	}
}
