// Package kafka delivers records to Kafka: acknowledged by all in-sync
// replicas, without duplicates from retries, keyed as the Java client does it.
// An outage, also one that only an operator can end, is waited out in order.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/freelist"
	"github.com/walpost/walpost/pkg/cdc"
)

// Sink implements [cdc.Sink].
type Sink struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	budget  *budget
	health  *health
	topics  topics
	promise func(*kgo.Record, error) // the one that all records share
	stuck   func()                   // ends a linger; nil if nothing lingers

	orphans    orphans
	deliveries freelist.List[delivery]
	client     atomic.Pointer[kgo.Client]

	// narrowing is set once a broker has refused a batch. Whatever the client
	// has not sent by then it does not send any more; see narrow.
	narrowing atomic.Bool

	// quit is closed when a record is given up, or by Close. Whatever was
	// not sent by then is not sent any more. told is closed once done has
	// been called for that record.
	quit, told         chan struct{}
	quitOnce, toldOnce sync.Once
	cause              error // why quit is closed; set before that

	txn *openTransaction // nil unless the sink writes in transactions

	held held
}

// New returns a Sink, or all problems of cfg. It does not dial. The Sink must
// be closed.
func New(cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s, err := openSink(cfg, newMetrics(cfg.Registerer))
	if err != nil {
		return nil, err
	}
	registerGauges(cfg.Registerer, func() *Sink { return s })
	return s, nil
}

// openSink makes a Sink of a Config that is checked and has its defaults.
func openSink(cfg Config, m *metrics) (*Sink, error) {
	s := &Sink{
		cfg: cfg, log: cfg.Logger, metrics: m,
		budget: newBudget(cfg.MaxInFlightBytes), quit: make(chan struct{}),
	}
	s.health = newHealth(cfg, s.metrics, s.budget, s.quit)
	if err := s.init(); err != nil {
		return nil, err
	}
	return s, nil
}

// init makes what belongs to one sink alone.
func (s *Sink) init() error {
	s.told = make(chan struct{})
	s.promise = s.delivered
	if s.linger() > 0 {
		s.stuck = s.endLinger
	}
	s.deliveries.Max = int(min(s.cfg.MaxInFlightBytes, math.MaxInt)) // they are less than half of what is counted
	s.orphans.feeding = make(chan struct{}, 1)
	s.topics.known = make(map[string]*topic)
	c, err := s.newClient()
	if err != nil {
		return err
	}
	s.client.Store(c)
	return nil
}

// Produce implements [cdc.Sink]. The first record for a topic also waits, until
// ctx is done, for the topic to exist and to be readable for this client. A
// record is poison if its topic's name is illegal, its partition does not
// exist, its time cannot be written, it is larger than the topic takes, or the
// broker refuses it in a batch of its own.
func (s *Sink) Produce(ctx context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	if s.failure() != nil {
		return s.refuse(ctx)
	}
	size := footprint(r)
	for {
		t, batch, err := s.admit(ctx, r)
		if err != nil {
			return err
		}
		if err := s.reserve(ctx, size); err != nil {
			return err
		}
		if batch <= t.batch() {
			d := s.newDelivery()
			d.record, d.done, d.topic, d.size = r, done, t, size
			d.partition.Store(-1)
			s.health.flight.enter(d, time.Now())
			s.send(d)
			s.unfeed()
			return nil
		}
		s.unfeed() // the limit was lowered while we waited
		s.budget.release(size)
	}
}

// reserve takes size bytes of the budget and the right to give records to a
// client, or neither. It waits for them until ctx is done.
func (s *Sink) reserve(ctx context.Context, size int64) error {
	first, err := s.budget.acquire(ctx, s.quit, size, s.stuck)
	if errors.Is(err, errQuit) {
		return s.refuse(ctx)
	}
	if err != nil {
		return err
	}
	if first {
		s.health.progressed(time.Now())
	}
	if err := s.feed(ctx); err != nil {
		s.budget.release(size)
		return err
	}
	return nil
}

// feed waits for the right to give records to a client, until ctx is done.
// unfeed gives it back.
func (s *Sink) feed(ctx context.Context) error {
	select {
	case s.orphans.feeding <- struct{}{}:
		return nil
	default:
	}
	select {
	case s.orphans.feeding <- struct{}{}:
		return nil
	case <-s.quit:
		return s.refuse(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Sink) unfeed() { <-s.orphans.feeding }

// Flush implements [cdc.Sink]. It ends the linger of what waits for more, and in
// transactions with the sink, which sends nothing once it has given up.
func (s *Sink) Flush(ctx context.Context) error {
	if s.txn != nil {
		var cancel context.CancelFunc
		ctx, cancel = s.untilGivenUp(ctx)
		defer cancel()
	}
	if err := s.client.Load().Flush(ctx); err != nil {
		return context.Cause(ctx)
	}
	return s.budget.wait(ctx)
}

// endLinger sends what waits for more: the budget has no room for that.
func (s *Sink) endLinger() {
	_ = s.client.Load().Flush(ended) // which ends the linger first, and then does not wait
}

// ended is a context that is done.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// untilGivenUp returns a context that also ends when the sink has given up.
func (s *Sink) untilGivenUp(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-s.quit:
			cancel(s.failure())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// Close ends the sink, without a wait for Kafka: what was not acknowledged is
// done with [ErrClosed], though it may be durable. It must not run beside
// Produce. Closing again does nothing.
func (s *Sink) Close() {
	s.tell() // first, for no record follows that would release what is held
	s.giveUp(ErrClosed)
	s.closeClient()
	s.finishHeld()                          // of a record that was held in the moment in which another was told of
	_ = s.budget.wait(context.Background()) // ends: the client has failed what it held
}

// failure returns why the sink takes no more, or nil. It does not wrap a
// PoisonError, which belongs to one record and not to those that follow it.
func (s *Sink) failure() error {
	select {
	case <-s.quit:
		if errors.Is(s.cause, ErrClosed) {
			return ErrClosed
		}
		return fmt.Errorf("kafka: sink has given up: %v", s.cause) //nolint:errorlint // see above
	default:
		return nil
	}
}

// refuse returns the failure, and not before done has reported its reason.
func (s *Sink) refuse(ctx context.Context) error {
	select {
	case <-s.told:
		return s.failure()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// giveUp closes the sink for records. Only the first cause counts: giveUp reports
// whether it is this one, whose record is then to be told of. The client
// library must call it, through its log, before it fails the first record:
// what Produce hands over after that is then never sent, see delivery.Done, and
// cannot overtake.
func (s *Sink) giveUp(cause error) (first bool) {
	s.quitOnce.Do(func() {
		s.cause, first = cause, true
		close(s.quit)
	})
	return first
}

// delivered is called by the client for every record, one at a time.
func (s *Sink) delivered(kr *kgo.Record, err error) {
	d := kr.Context.(*delivery)
	if err == nil {
		err = s.txn.check(kr)
	}
	if err == nil {
		s.acknowledged(d)
		s.finish(d, nil)
		return
	}
	again := passes(err) || isRefusal(err)
	if (again || s.narrowing.Load()) && s.orphan(d, err) {
		return
	}
	given := s.failure() // and err may be no more than a consequence, as anything is of Close
	if given != nil && (again || errors.Is(given, ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed)) {
		s.hold(d)
		return
	}
	err = fmt.Errorf("write to topic %s: %w", d.topic.name, fenced(err))
	s.giveUp(err)
	s.finish(d, err)
	s.tell()
	s.finishHeld()
}

func (s *Sink) acknowledged(d *delivery) {
	now := time.Now()
	s.health.progressed(now)
	if s.txn != nil {
		s.txn.acknowledged(d) // counts once it is committed
		return
	}
	d.topic.processed.Inc()
	s.metrics.latency.Observe(max(0, now.Sub(d.record.CommitTime)).Seconds())
}

// finish calls done, after which the record is not the sink's any more.
func (s *Sink) finish(d *delivery, err error) {
	r, done, size := d.record, d.done, d.size
	s.health.flight.leave(d)
	d.clear()
	s.deliveries.Put(d, d.memory())
	done(r, err)
	s.budget.release(size)
}

// maxSeconds is the last time that the client library can write: it counts
// nanoseconds on the way to Kafka's milliseconds.
const maxSeconds = math.MaxInt64 / int64(time.Second)

// writable reports whether t can be a record's timestamp: brokers refuse what
// lies before 1970, but for the word for none.
func writable(t time.Time) bool {
	return t.IsZero() || t.Equal(cdc.NoTimestamp) || t.Unix() >= 0 && t.Unix() < maxSeconds
}
