package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/walpost/walpost/pkg/cdc"
)

// A transaction can be complete for its coordinator and open in a partition. Brokers of
// 4.3 do that: a coordinator that finds a partition without a leader
// when it is to write the marker there, as after a crash of all brokers that have it,
// takes the partition for deleted and leaves it out. Nobody can read what follows
// there. Worse, the next transaction of the same producer that writes there ends both,
// and what was aborted is committed, or the other way round. Therefore it is looked
// for, and ended as it was meant to end, before anything is written.
// https://github.com/apache/kafka/blob/4.3.0/core/src/main/scala/kafka/coordinator/transaction/TransactionMarkerChannelManager.scala

// errLeftOpen spoils the transaction in which a topic is met in which another was left
// open: only Acquire can end that.
var errLeftOpen = errors.New("kafka: an earlier transaction was left open in a topic, ending it first")

// endTimeout bounds the end of what was left open.
const endTimeout = 10 * time.Second

// partial is a partition in which a transaction was left open.
type partial struct {
	topic     string
	partition int32
	producer  producer
}

// producer names a producer in one of its epochs.
type producer struct {
	id    int64
	epoch int16
}

var nobody = producer{-1, -1}

// fates is what became of the transactions of one key, by who wrote them.
type fates map[producer]fate

type fate int

const (
	undecided   fate = iota
	unmarked         // committed, and its marker is gone: whether others had its epoch is not known
	committedIn      // others of the same epoch may have been aborted
	committedBy      // the only transaction of its epoch: transaction.version 2
)

func (f fates) seen(r *kgo.Record) {
	p := producer{r.ProducerID, r.ProducerEpoch}
	f[p] = max(f[p], undecided)
}

// marked notes that r is committed, by a marker that is compacted away.
func (f fates) marked(r *kgo.Record) {
	p := producer{r.ProducerID, r.ProducerEpoch}
	f[p] = max(f[p], unmarked)
}

// committed notes that marker ends the transaction of r. With transaction.version 2
// each transaction has an epoch, and its marker the next.
// https://cwiki.apache.org/confluence/display/KAFKA/KIP-890%3A+Transactions+Server-Side+Defense
func (f fates) committed(r, marker *kgo.Record) {
	fate := committedIn
	if marker.ProducerEpoch > r.ProducerEpoch {
		fate = committedBy
	}
	p := producer{r.ProducerID, r.ProducerEpoch}
	f[p] = max(f[p], fate)
}

// shared reports whether several transactions have an epoch, as before transaction.version 2.
func (f fates) shared() bool {
	for _, fate := range f {
		if fate == committedIn {
			return true
		}
	}
	return false
}

// of returns whether the transaction of p was committed. It is not known if p wrote
// before all that was read, or several transactions in one epoch.
func (f fates) of(p producer) (committed, known bool) {
	fate, seen := f[p]
	if seen {
		return fate == committedBy, fate == committedBy || fate == undecided
	}
	for q := range f {
		if q.id == p.id && q.epoch < p.epoch {
			return false, true
		}
	}
	return false, false
}

// leftOpen returns where transactions are open that s, which has just taken the
// transactional id over and written nothing, has ended: in the progress topic, in those that
// s knows, and in others.
func (t *Transactional) leftOpen(ctx context.Context, s *Sink, others []string) ([]partial, error) {
	names := append(s.topics.names(), others...)
	slices.Sort(names)
	counts, failed := countAll(ctx, s.client.Load(), slices.Compact(names)) // there may be more than were met
	counts[t.cfg.Topic] = progressPartition + 1
	delete(failed, t.cfg.Topic)
	open, unasked, err := s.earlierIn(ctx, counts)
	if err == nil {
		err = unasked[t.cfg.Topic]
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("look for open transactions: %w", err)
	}
	maps.Copy(failed, unasked)
	for name, err := range failed { // deleted, or without a leader: it is asked about when it is met again
		s.log.Debug("a topic cannot be asked for open transactions", "topic", name, "error", err)
		s.topics.forget(name)
	}
	return open, nil
}

// ending is how the last transaction of a producer ended, as its coordinator has it.
type ending struct {
	producer // its epoch is the next one with transaction.version 2

	committed bool

	// Another of the producer was open behind it. walpost begins one only once the last
	// is committed.
	followed bool
}

// of reports whether the ending is that of p's last transaction. Where transactions share
// epochs only the progress topic, in which each writes, tells which was the last.
func (e *ending) of(p partial, progress string, shared bool) bool {
	if e == nil || e.id != p.producer.id {
		return false
	}
	if shared {
		return e.epoch == p.producer.epoch && p.topic == progress
	}
	return e.epoch == p.producer.epoch+1
}

// askEnding asks the coordinator how the last transaction ended. It knows until the id is
// taken over; what was heard before is kept then.
func (t *Transactional) askEnding(ctx context.Context, key string) error {
	d, err := t.base.describeTransaction(ctx, transactionPrefix+key)
	switch {
	case errors.Is(err, kerr.TransactionalIDNotFound) || tooOld(err):
		return nil
	case err != nil:
		return fmt.Errorf("ask how the last transaction ended: %w", err)
	}
	e := &ending{producer: producer{d.ProducerID, d.ProducerEpoch}}
	switch d.State {
	case "PrepareCommit", "CompleteCommit":
		e.committed = true
	case "Ongoing":
		e.followed = true
	case "PrepareAbort", "CompleteAbort":
	default: // Empty: it was taken over since
		return nil
	}
	t.ended.Store(e)
	return nil
}

// describeTransaction asks until there is an answer: a coordinator is made for the first
// question.
func (s *Sink) describeTransaction(ctx context.Context, name string) (kadm.DescribedTransaction, error) {
	for tries := 1; ; tries++ {
		all, err := kadm.NewClient(s.client.Load()).DescribeTransactions(ctx, name)
		d := all[name]
		if err == nil {
			err = d.Err
		}
		if err == nil || !kerr.IsRetriable(err) || isForbidden(err) {
			return d, err
		}
		if s.pause(ctx, backoff(tries)) != nil {
			return d, err
		}
	}
}

// fate returns how what was left open is to end: as its coordinator has it, and what was
// answered as committed is to be committed, since its position may be confirmed.
func (t *Transactional) fate(p partial, read fates) (commit, known bool) {
	if p.producer == t.wrote {
		return true, true
	}
	if e := t.ended.Load(); e.of(p, t.cfg.Topic, read.shared()) {
		return e.committed || e.followed && !read.shared(), true // else it is the open one itself
	}
	if p.topic == t.cfg.Topic {
		return false, true
	}
	return read.of(p.producer)
}

// settled returns what is committed: also if its marker is missing, and the coordinator
// knows better.
func (t *Transactional) settled(ctx context.Context, key string, f found) (content, error) {
	if f.pending == nil {
		return f.content, nil
	}
	if err := t.askEnding(ctx, key); err != nil {
		return content{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := partial{t.cfg.Topic, progressPartition, producer{f.pending.ProducerID, f.pending.ProducerEpoch}}
	if commit, _ := t.fate(p, f.fates); !commit {
		return f.content, nil
	}
	return parseContent(t.cfg.Topic, f.pending)
}

// end ends what was left open, in the epoch of s, without a record. What is aborted is
// published again, since its position is not there. t.mu must be held.
func (t *Transactional) end(ctx context.Context, s *Sink, open []partial, f found) error {
	ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, fmt.Errorf("no end within %s", endTimeout))
	defer cancel()
	aborted, committed := make(kadm.TopicsSet), make(kadm.TopicsSet)
	for _, p := range open {
		commit, known := t.fate(p, f.fates)
		if !known {
			return cdc.Refuse("find out from partition 0 of "+t.cfg.Topic+" whether it was committed, and end it with kafka-transactions.sh",
				"the brokers have left a transaction of producer %d epoch %d open in partition %d of topic %s, and whether it was committed is not known any more",
				p.producer.id, p.producer.epoch, p.partition, p.topic)
		}
		t.base.log.Warn("the brokers have left a transaction open, ending it", "topic", p.topic, "partition", p.partition,
			"producer_id", p.producer.id, "epoch", p.producer.epoch, "commit", commit)
		set := aborted
		if commit {
			set = committed
		}
		set.Add(p.topic, p.partition)
	}
	if err := s.endAll(ctx, aborted, false); err != nil {
		return err
	}
	return s.endAll(ctx, committed, true)
}

// endAll writes markers to partitions. It speaks as a client without
// transaction.version 2, the only one that may name a partition without writing to it.
func (s *Sink) endAll(ctx context.Context, set kadm.TopicsSet, commit bool) error {
	if len(set) == 0 {
		return nil
	}
	id, epoch, err := s.client.Load().ProducerID(ctx)
	if err != nil {
		return fenced(err)
	}
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.AddPartitionsToTxn), 3)
	versions.SetMaxKeyVersion(int16(kmsg.EndTxn), 4)
	c, err := kgo.NewClient(append(s.connectOpts(), kgo.MaxVersions(versions))...)
	if err != nil {
		return fmt.Errorf("kafka: %w", err)
	}
	defer c.Close()

	add := kmsg.NewPtrAddPartitionsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch = s.txn.name, id, epoch
	for _, t := range set.Sorted() {
		topic := kmsg.NewAddPartitionsToTxnRequestTopic()
		topic.Topic, topic.Partitions = t.Topic, t.Partitions
		add.Topics = append(add.Topics, topic)
	}
	if err := s.whileEnding(ctx, func() error {
		resp, err := add.RequestWith(ctx, c)
		if err != nil {
			return err
		}
		for _, topic := range resp.Topics {
			for _, p := range topic.Partitions {
				err = errors.Join(err, kerr.ErrorForCode(p.ErrorCode))
			}
		}
		return err
	}); err != nil {
		return fmt.Errorf("add partitions to a transaction: %w", fenced(err))
	}
	end := kmsg.NewPtrEndTxnRequest()
	end.TransactionalID, end.ProducerID, end.ProducerEpoch, end.Commit = s.txn.name, id, epoch, commit
	if err := s.whileEnding(ctx, func() error {
		resp, err := end.RequestWith(ctx, c)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.ErrorCode)
	}); err != nil {
		return fmt.Errorf("end a transaction: %w", fenced(err))
	}
	return nil
}

// whileEnding calls f until the markers of the last transaction are written.
func (s *Sink) whileEnding(ctx context.Context, f func() error) error {
	for tries := 1; ; tries++ {
		err := f()
		if !errors.Is(err, kerr.ConcurrentTransactions) {
			return err
		}
		if err := s.pause(ctx, backoff(tries)); err != nil {
			return err
		}
	}
}
