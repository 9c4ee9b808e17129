package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/test/harness"
)

// transactionFaults hit the Kafka transaction that has the position in it. They stand
// where at least once has [checkpointFaults].
var transactionFaults = []fault{
	{"transaction: committed but not answered", 4, committedButCut},
	{"transaction: walpost killed in one", 4, killedInTransaction},
	{"transaction: another's is open in the progress topic", 3, neighbourOpen},
	{"transaction: its id is taken by another", 3, idTaken},
	{"transaction: frozen for longer than it may be open", 1, frozenBeyondTimeout},
}

// fakeTransactionFaults hit the requests that transactions are made of.
var fakeTransactionFaults = []fault{
	{"transaction: commit answered with an error", 6, answeredTo(kmsg.EndTxn,
		kerr.RequestTimedOut, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.ConcurrentTransactions, kerr.CoordinatorLoadInProgress)},
	{"transaction: partitions not taken in", 4, answeredTo(kmsg.AddPartitionsToTxn,
		kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.ConcurrentTransactions, kerr.CoordinatorLoadInProgress)},
	{"transaction: producer id refused", 4, func(ctx context.Context, s *stage, r *rand.Rand) error {
		if err := s.kill(s.main); err != nil {
			return err
		}
		s.restart()
		return answeredTo(kmsg.InitProducerID, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.ConcurrentTransactions)(ctx, s, r)
	}},
}

// answeredTo gives one of the answers to requests of a kind, a few times or for a
// while.
func answeredTo(key kmsg.Key, errs ...*kerr.Error) func(context.Context, *stage, *rand.Rand) error {
	return func(_ context.Context, s *stage, r *rand.Rand) error {
		h := s.fake.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: one(r, errs...), Count: one(r, -1, 1, 5)})
		defer h.Remove()
		<-time.After(between(r, 50*time.Millisecond, 800*time.Millisecond)) // answered so meanwhile
		return nil
	}
}

// mute swallows what Kafka says to walpost, for long enough that a commit is among it.
func (s *stage) mute(r *rand.Rand) error {
	if err := s.kafkaLink.Add("timeout", harness.ToWalpost, map[string]int64{"timeout": 0}); err != nil {
		return err
	}
	<-time.After(between(r, 20*time.Millisecond, 200*time.Millisecond)) // the last commit goes through
	return nil
}

func committedButCut(_ context.Context, s *stage, r *rand.Rand) error {
	if err := s.mute(r); err != nil {
		return err
	}
	return s.kafkaLink.Heal() // which closes what has lost bytes
}

func killedInTransaction(ctx context.Context, s *stage, r *rand.Rand) error {
	if err := s.mute(r); err != nil {
		return err
	}
	err := s.kill(s.main)
	if heal := s.kafkaLink.Heal(); heal != nil {
		return heal
	}
	s.ended()
	s.restart()
	return err
}

// neighbourOpen leaves a transaction of another producer open in the progress topic
// while walpost starts: one that stopped there would not find its position.
func neighbourOpen(ctx context.Context, s *stage, r *rand.Rand) error {
	cl := newClient(s.t, s.brokers, kgo.TransactionalID("neighbour"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := cl.BeginTransaction(); err != nil {
		return err
	}
	rec := &kgo.Record{Topic: progressTopic, Key: []byte("neighbour"), Value: []byte(`{"slot":"neighbour","epoch":1}`)}
	if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return fmt.Errorf("write to the progress topic: %w", err)
	}
	err := s.kill(s.main)
	s.restart()
	if err == nil {
		err = s.recovered()
	}
	if end := cl.EndTransaction(ctx, kgo.TransactionEndTry(r.IntN(2) == 0)); end != nil {
		return fmt.Errorf("end the neighbour's transaction: %w", end)
	}
	s.ended()
	return err
}

// idTaken takes walpost's transactional id while it owns the slot: it must notice,
// and take it back.
func idTaken(ctx context.Context, s *stage, _ *rand.Rand) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	listed, err := kadm.NewClient(newClient(s.t, s.brokers)).ListTransactions(ctx, nil, nil)
	if err != nil {
		return err
	}
	for _, id := range listed.TransactionalIDs() {
		if !strings.HasSuffix(id, "-"+s.slot) {
			continue
		}
		cl := newClient(s.t, s.brokers, kgo.TransactionalID(id))
		_, _, err := cl.ProducerID(ctx)
		cl.Close()
		return err
	}
	return fmt.Errorf("no transactional id among %v", listed.TransactionalIDs())
}

// frozenBeyondTimeout freezes walpost until the cluster has aborted its transaction,
// which Kafka looks after every ten seconds.
func frozenBeyondTimeout(ctx context.Context, s *stage, r *rand.Rand) error {
	if err := s.kill(s.main); err != nil {
		return err
	}
	s.restart("WALPOST_KAFKA_TRANSACTION_TIMEOUT=2s")
	if err := s.backlog(3000 + r.IntN(3000)); err != nil {
		return err
	}
	<-time.After(between(r, 0, 300*time.Millisecond)) // somewhere in it
	if err := freeze(s.main); err != nil {
		return err
	}
	<-time.After(13 * time.Second) // frozen meanwhile
	return thaw(s.main)
}
