package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
)

// TransactionalConfig holds a Transactional's settings. Slot and SystemID are
// required.
type TransactionalConfig struct {
	Config

	// Slot is the name of the slot whose checkpoint this is.
	Slot string

	// SystemID asks the database for its system identifier. With the slot it
	// makes the transactional id and the checkpoint's key.
	SystemID func(context.Context) (uint64, error)

	// Topic keeps the checkpoints, of any number of slots. It is created when
	// it is missing, with one partition, and compacted. Defaults to
	// "walpost.progress".
	Topic string

	// Owner says who acquired the checkpoint, for people who read the topic.
	// Defaults to host/pid.
	Owner string
}

// Transactional is a sink and a store in one, each event and the position after it
// in one transaction. It implements [cdc.Sink] and [cdc.Store] as the pipeline's
// [cdc.Config.Transactional] wants them.
//
// Until the first Acquire it takes no records. Acquire fences whoever acquired
// before in any process, by the transactional id.
type Transactional struct {
	cfg   TransactionalConfig
	base  *Sink // writes nothing: its client asks, its parts are shared by all epochs
	topic progressTopic

	current atomic.Pointer[Sink]   // of the epoch; nil before the first Acquire
	ended   atomic.Pointer[ending] // of the last transaction, as last heard; nil if never

	mu    sync.Mutex // held by all that changes the transaction
	have  content    // as it was last committed here; guarded by mu
	wrote producer   // who committed have, or nobody if others had the same epoch; guarded by mu
	open  bool       // a transaction is begun; guarded by mu
	spoil error      // why nothing works until Acquire, or nil; guarded by mu
}

var (
	_ cdc.Sink  = (*Transactional)(nil)
	_ cdc.Store = (*Transactional)(nil)
)

const (
	// transactionPrefix begins each transactional id, for access rules.
	transactionPrefix = "walpost-"

	// abortTimeout bounds the abort when a Transactional is closed. If there is
	// no answer the cluster aborts on its own, later.
	abortTimeout = 2 * time.Second
)

// NewTransactional returns a Transactional, or all problems of cfg. It does not
// dial. It must be closed.
func NewTransactional(cfg TransactionalConfig) (*Transactional, error) {
	cfg.Topic = cmp.Or(cfg.Topic, ProgressTopic)
	if cfg.Owner == "" {
		host, _ := os.Hostname() // a name is a help and no need
		cfg.Owner = fmt.Sprintf("%s/%d", cmp.Or(host, "unknown"), os.Getpid())
	}
	var errs []error
	if cfg.Slot == "" {
		errs = append(errs, errors.New("slot is empty"))
	}
	if cfg.SystemID == nil {
		errs = append(errs, errors.New("system id: none given"))
	}
	if !isTopicName(cfg.Topic) {
		errs = append(errs, fmt.Errorf("topic %q is not a legal name", cfg.Topic))
	}
	base, err := New(cfg.Config)
	if err := errors.Join(append(errs, err)...); err != nil {
		if base != nil {
			base.Close()
		}
		return nil, err
	}
	topic := progressTopic{name: cfg.Topic, replication: cfg.replication(), client: base.client.Load, connection: base.connectOpts, log: base.log}
	return &Transactional{cfg: cfg, base: base, topic: topic, wrote: nobody, spoil: cdc.ErrFenced}, nil
}

// Close aborts the open transaction, which takes 2 s at the most, and ends
// everything. It must not run beside Produce. Closing again does nothing.
func (t *Transactional) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.current.Load(); s != nil && t.open {
		ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
		defer cancel()
		s.giveUp(ErrClosed)
		if err := s.client.Load().AbortBufferedRecords(ctx); err == nil {
			err = s.client.Load().EndTransaction(ctx, kgo.TryAbort)
			s.log.Debug("abort the open transaction", "error", err)
		}
	}
	t.discard(ErrClosed)
	t.base.Close()
	return nil
}

// discard ends the epoch: its records are answered, and nothing works until
// Acquire.
func (t *Transactional) discard(why error) {
	if s := t.current.Load(); s != nil {
		s.Close()
	}
	t.open, t.spoil = false, why
}

// Healthy is as [Sink.Healthy].
func (t *Transactional) Healthy(ctx context.Context) error {
	if err := t.base.failure(); err != nil {
		return err
	}
	return t.base.Healthy(ctx)
}

// Watch is as [Sink.Watch].
func (t *Transactional) Watch(ctx context.Context) error {
	return watch(ctx, t.Healthy, func() *Sink { return t.base })
}

// Circuit is as [Sink.Circuit].
func (t *Transactional) Circuit() circuit.State { return t.base.Circuit() }

// Produce implements [cdc.Sink]. See [Sink.Produce].
func (t *Transactional) Produce(ctx context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	s, err := t.begun(ctx)
	if err != nil {
		return err
	}
	return s.Produce(ctx, r, done)
}

// Flush implements [cdc.Sink].
func (t *Transactional) Flush(ctx context.Context) error {
	if s := t.current.Load(); s != nil {
		return s.Flush(ctx)
	}
	return nil
}

// begun returns the sink of the open transaction, and begins it if there is none.
func (t *Transactional) begun(ctx context.Context) (*Sink, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spoil != nil {
		return nil, t.spoil
	}
	s := t.current.Load()
	if t.open {
		return s, nil
	}
	if err := s.begin(ctx); err != nil {
		if ctx.Err() == nil {
			t.spoil = err
		}
		return nil, err
	}
	t.open = true
	return s, nil
}

// begin begins a transaction, which asks nobody unless a connection has ended; then it
// waits, until ctx is done, for what the brokers say of the last one.
func (s *Sink) begin(ctx context.Context) error {
	for tries := 1; ; tries++ {
		err := s.verify(ctx)
		if err == nil {
			break
		}
		if err := errors.Join(s.failure(), context.Cause(ctx)); err != nil {
			return err
		}
		s.health.hold(s.txn.progress, err)
		if err := s.pause(ctx, backoff(tries)); err != nil {
			return err
		}
	}
	s.health.release()
	c := s.client.Load()
	if err := c.BeginTransaction(); err != nil {
		return fmt.Errorf("begin transaction: %w", fenced(err))
	}
	id, epoch, err := c.ProducerID(context.Background())
	if err != nil {
		return fmt.Errorf("begin transaction: %w", fenced(err))
	}
	s.txn.begin(id, epoch)
	return nil
}

// Save implements [cdc.Store]: it commits the open transaction, with pos in it.
// Before Acquire, and after a record or an earlier Save has failed, it fails for
// the same reason.
func (t *Transactional) Save(ctx context.Context, pos cdc.Position) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("save checkpoint of slot %q at %s: %w", t.cfg.Slot, pos.LSN, err)
	}
	if t.spoil == nil {
		next := t.have
		next.Position = further(next.Position, pos)
		next.SavedAt = time.Now().UTC()
		t.spoil = t.commit(ctx, t.current.Load(), next)
	}
	if t.spoil != nil {
		return fmt.Errorf("save checkpoint of slot %q at %s: %w", t.cfg.Slot, pos.LSN, t.spoil)
	}
	return nil
}

// further returns the position to keep. Positions are compared within one
// history only; that of another replaces what was there.
func further(have, pos cdc.Position) cdc.Position {
	if have.SystemID == pos.SystemID && have.Timeline == pos.Timeline && have.LSN > pos.LSN {
		return have
	}
	return pos
}

// commit writes next, waits for all that is in the transaction, and commits it if
// every record is in it. Whatever goes wrong, nobody knows what becomes of the
// transaction: only Acquire, which ends it, and a look at the topic can tell. t.mu
// must be held.
func (t *Transactional) commit(ctx context.Context, s *Sink, next content) error {
	s.health.progressed(time.Now())
	s.health.ending.Store(true)
	defer s.health.ending.Store(false)
	if !t.open {
		if err := s.begin(ctx); err != nil {
			return err
		}
		t.open = true
	}
	if met := s.topics.names(); len(met) > 0 {
		next.Topics = met
		if len(met) > maxTopicsKept {
			next.Topics = nil
		}
	}
	record, err := next.record(t.cfg.Topic)
	if err != nil {
		return err
	}
	c := s.client.Load()
	written := make(chan error, 1)
	c.Produce(context.Background(), record, func(r *kgo.Record, err error) {
		if err == nil {
			err = s.txn.check(r)
		}
		written <- err
	})
	if err := s.Flush(ctx); err != nil {
		if s.failure() != nil {
			return s.cause
		}
		return fmt.Errorf("flush transaction: %w", err)
	}
	if err := <-written; err != nil { // flushed: it has its answer
		return fmt.Errorf("write to topic %s: %w", t.cfg.Topic, fenced(err))
	}
	if s.failure() != nil {
		return s.cause
	}
	if err := s.txn.loading.wait(ctx, t.cfg.Topic, c); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	s.txn.verification.commit()
	err = c.EndTransaction(ctx, kgo.TryCommit)
	s.txn.verification.answered()
	if err != nil {
		return because(ctx, fmt.Errorf("commit transaction: %w", fenced(err)))
	}
	t.open, t.have, t.wrote = false, next, s.txn.alone(c)
	now := time.Now()
	s.health.progressed(now)
	s.txn.committed(now, s.metrics)
	return nil
}

// because adds to err why ctx ended, if that is what happened.
func because(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// Load implements [cdc.Store]. It reads what is committed, also while this process
// or another has a transaction open.
func (t *Transactional) Load(ctx context.Context) (cdc.Checkpoint, error) {
	key, err := t.key(ctx)
	if err != nil {
		return cdc.Checkpoint{}, err
	}
	var have content
	err = t.whenAllowed(ctx, func() error {
		f, err := t.read(ctx, key)
		if err == nil {
			have, err = t.settled(ctx, key, f)
		}
		return err
	})
	if err != nil {
		return cdc.Checkpoint{}, fmt.Errorf("load checkpoint of slot %q: %w", t.cfg.Slot, because(ctx, err))
	}
	return have.Checkpoint, nil
}

// Acquire implements [cdc.Store]. It must be called only by who owns the slot: it
// takes the transactional id from whoever has it, and ends their transaction.
func (t *Transactional) Acquire(ctx context.Context) (cdc.Checkpoint, error) {
	key, err := t.key(ctx)
	if err != nil {
		return cdc.Checkpoint{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(t.spoil, ErrClosed) {
		return cdc.Checkpoint{}, ErrClosed
	}
	t.discard(errors.New("checkpoint is not acquired"))
	var cp cdc.Checkpoint
	err = t.whenAllowed(ctx, func() (err error) {
		cp, err = t.acquire(ctx, key)
		return err
	})
	if err != nil {
		t.discard(err)
		return cdc.Checkpoint{}, fmt.Errorf("acquire checkpoint of slot %q: %w", t.cfg.Slot, because(ctx, err))
	}
	return cp, nil
}

// whenAllowed calls f again and again, until ctx is done, as long as a right is
// lacking. Whoever gives it need not wait for the round to begin again.
func (t *Transactional) whenAllowed(ctx context.Context, f func() error) error {
	h := t.base.health
	for tries := 1; ; tries++ {
		err := f()
		switch {
		case err == nil:
			h.release()
			return nil
		case !isForbidden(err):
			h.unblock()
			return err
		}
		h.block(fmt.Errorf("kafka: the checkpoint cannot be taken: %w", err))
		h.warn("checkpoint", "the checkpoint cannot be taken, trying again", "topic", t.cfg.Topic, "err", err, "hint", hintFor(err))
		if t.base.pause(ctx, backoff(tries)) != nil {
			return err
		}
	}
}

// key returns the checkpoint's key.
func (t *Transactional) key(ctx context.Context) (string, error) {
	if err := context.Cause(ctx); err != nil {
		return "", err
	}
	id, err := t.cfg.SystemID(ctx)
	if err != nil {
		return "", fmt.Errorf("ask for the system identifier: %w", because(ctx, err))
	}
	return fmt.Sprintf("%d-%s", id, t.cfg.Slot), nil
}
