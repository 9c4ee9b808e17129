package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
)

const (
	// stallAfter is how long records may be in flight without an
	// acknowledgement before the sink counts as held up.
	stallAfter = 2 * time.Second

	// curiousAfter is the same for asking the client library for details.
	curiousAfter = time.Second

	// pingInterval is how long the answer of a ping is good for, and
	// pingTimeout bounds one.
	pingInterval = 2 * time.Second
	pingTimeout  = 2 * time.Second

	// watchInterval is the time between two looks of Watch.
	watchInterval = time.Second

	// initInterval is the least time between two answers to requests for a
	// producer id; the client library does not pause between failed ones.
	initInterval = 250 * time.Millisecond
)

// health is what is known about Kafka's condition. All methods may be called
// from any goroutine.
type health struct {
	log     *slog.Logger
	metrics *metrics
	budget  *budget
	flight  flight
	quit    <-chan struct{}
	creates bool // topics that are missing

	// As [cdc.Stamp]; zero if it never was.
	progress atomic.Int64 // a record was acknowledged, or was the first in flight
	contact  atomic.Int64 // a broker answered
	inited   atomic.Int64 // a request for a producer id was answered

	ending atomic.Bool // a transaction is being ended, which counts as in flight

	lost atomic.Bool // no broker has answered since a connection failed

	// circuit is open while nothing is acknowledged. It decides nothing: the client
	// library tries again by itself, and its tries half-open it.
	circuit *circuit.Breaker
	repeats circuit.Repeats

	mu      sync.Mutex
	holding error     // guarded by mu; why nothing can be handed over
	trouble error     // guarded by mu; why nothing is acknowledged, as far as is known
	seen    time.Time // guarded by mu; when trouble was last seen

	throttle throttled // guarded by mu; the pause that ends last

	pinging sync.Mutex // held during a ping
	pinged  time.Time  // guarded by pinging
	pingErr error      // guarded by pinging
}

func newHealth(cfg Config, m *metrics, b *budget, quit <-chan struct{}) *health {
	return &health{log: cfg.Logger, metrics: m, budget: b, quit: quit, creates: cfg.CreateTopics, circuit: circuit.New(minBackoff, maxBackoff)}
}

// Healthy returns nil if Kafka takes records, as far as is known, or else the
// reason. While nothing is in flight it asks a broker, at most every 2 s and
// for at most 2 s. It closes or opens the circuit. Safe to call from any goroutine.
func (s *Sink) Healthy(ctx context.Context) error {
	if err := s.failure(); err != nil {
		return err
	}
	err := s.judge(ctx)
	if ctx.Err() == nil {
		s.health.judged(err)
	}
	return err
}

// watch calls healthy once a second until ctx is done, so that the circuit and the
// log are true though nobody asks, and has topics that were deleted created again by sink.
func watch(ctx context.Context, healthy func(context.Context) error, sink func() *Sink) error {
	var g sync.WaitGroup
	g.Go(func() { everySecond(ctx, func() { sink().createGone(ctx) }) })
	everySecond(ctx, func() { _ = healthy(ctx) }) // says it in the log
	g.Wait()
	return nil
}

func everySecond(ctx context.Context, f func()) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f()
		}
	}
}

// Watch keeps the circuit and the log true while nobody calls Healthy, and creates topics
// that are deleted meanwhile if [Config.CreateTopics] says so, until ctx is done, and then
// returns nil.
func (s *Sink) Watch(ctx context.Context) error {
	return watch(ctx, s.Healthy, func() *Sink { return s })
}

// Circuit returns the state of the circuit to Kafka: closed while it takes what it
// is given, open while it does not, half-open while it is tried. Safe to call from
// any goroutine.
func (s *Sink) Circuit() circuit.State { return s.health.circuit.State() }

// judge is what Healthy returns.
func (s *Sink) judge(ctx context.Context) error {
	h := s.health
	if err := h.problem(); err != nil {
		return err
	}
	if h.stalled(stallAfter) {
		why := "for a reason not known"
		if since(&h.contact) > stallAfter {
			why = "and no broker has answered"
		}
		return fmt.Errorf("kafka: nothing was acknowledged for %s, %s; the oldest event waits for %s",
			since(&h.progress).Round(time.Second), why, h.flight.oldest())
	}
	if since(&h.progress) < stallAfter {
		return nil
	}
	return h.ping(ctx, s.client.Load())
}

// problem returns what holds records up, if that is known.
func (h *health) problem() error {
	stalled := h.stalled(stallAfter)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.holding != nil:
		return h.holding
	case stalled && cdc.Stamp(h.seen) >= h.progress.Load() && h.trouble != nil:
		return h.trouble
	case stalled:
		return h.throttle.holds()
	}
	return nil
}

func (h *health) ping(ctx context.Context, c *kgo.Client) error {
	h.pinging.Lock()
	defer h.pinging.Unlock()
	if !h.pinged.IsZero() && time.Since(h.pinged) < pingInterval {
		return h.pingErr
	}
	pctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	err := c.Ping(pctx)
	if ctx.Err() != nil {
		return context.Cause(ctx) // says nothing about Kafka
	}
	if err != nil {
		h.failed()
		h.circuit.FailTry()
		err = fmt.Errorf("kafka: no broker answers: %w", err)
	}
	h.pinged, h.pingErr = time.Now(), err
	return err
}

// curious reports whether the client library should be asked for details.
func (h *health) curious() bool {
	return h.stalled(curiousAfter) || h.flight.oldest().longerThan(stallAfter)
}

// judged opens or closes the circuit.
func (h *health) judged(err error) {
	before := h.circuit.State()
	switch {
	case err == nil && before != circuit.Closed:
		h.circuit.Succeed()
		h.log.Info("Kafka takes records again")
	case err != nil && before == circuit.Closed:
		h.circuit.Fail()
		h.log.Warn("Kafka takes no records", "err", err)
	}
}

// stalled reports whether records are in flight, or a transaction is being ended,
// and nothing was acknowledged for d.
func (h *health) stalled(d time.Duration) bool {
	records, _ := h.budget.inFlight()
	return (records > 0 || h.ending.Load()) && since(&h.progress) > d
}

// connected reports whether a broker has answered since a connection failed,
// or a moment ago: with several brokers one may be down.
func (h *health) connected() bool {
	return h.contact.Load() > 0 && (!h.lost.Load() || since(&h.contact) < stallAfter)
}

func (h *health) progressed(now time.Time) { h.progress.Store(cdc.Stamp(now)) }

// hold says that Produce waits for a topic because of err.
func (h *health) hold(topic string, err error) {
	h.block(fmt.Errorf("kafka: topic %s is not ready: %w", topic, err))
	h.warn("topic "+topic, "topic is not ready, holding its records", "topic", topic, "err", err, "hint", h.hint(err))
}

// block says why nothing can be handed over.
func (h *health) block(why error) {
	h.metrics.retries.Inc()
	h.mu.Lock()
	h.holding = why
	h.mu.Unlock()
	h.circuit.FailTry()
}

// release says that what was waited for is there.
func (h *health) release() {
	if h.unblock() {
		h.repeats.Forget()
		h.log.Info("what was waited for is ready")
	}
}

// unblock says that what block gave is the reason no more, and reports whether it was.
func (h *health) unblock() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.holding != nil
	h.holding = nil
	return held
}

// suspect says that err may be why nothing is acknowledged.
func (h *health) suspect(err error) {
	h.mu.Lock()
	h.trouble, h.seen = fmt.Errorf("kafka: nothing is acknowledged: %w", err), time.Now()
	h.mu.Unlock()
	h.circuit.FailTry()
	switch {
	case h.stalled(curiousAfter):
		h.warn("stalled", "nothing is acknowledged, holding records", "err", err, "hint", h.hint(err))
	case h.flight.oldest().longerThan(stallAfter):
		h.warn("partition", "a partition acknowledges nothing, holding its records", "err", err, "oldest", h.flight.oldest().String(), "hint", h.hint(err))
	}
}

// hint is hintFor, but of a topic that is missing where topics are created.
func (h *health) hint(err error) string {
	hint := hintFor(err)
	if h.creates && (hint == hintNoTopic || hint == hintTopicGone) {
		return "wait: kafka.create_topics is set, and the topic is created after some seconds"
	}
	return hint
}

// warn logs once in a while for a subject.
func (h *health) warn(subject, msg string, args ...any) {
	h.repeats.Log(h.log, slog.LevelWarn, subject, msg, args...)
}

func (h *health) dataLoss(topic string, partition int32) {
	h.log.Error("broker has lost records of this producer, sending on", "topic", topic, "partition", partition,
		"hint", "check the partition's replicas for an unclean leader election")
}

// OnBrokerConnect implements [kgo.HookBrokerConnect].
func (h *health) OnBrokerConnect(broker kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	select {
	case <-h.quit:
		return // Close breaks dials
	default:
	}
	if err == nil {
		h.answered()
		return
	}
	h.failed()
	h.metrics.retries.Inc()
	h.suspect(err)
	h.warn("connect", "connect to broker", "broker", net.JoinHostPort(broker.Host, strconv.Itoa(int(broker.Port))), "err", err, "hint", hintFor(err))
}

// OnBrokerWrite implements [kgo.HookBrokerWrite].
func (h *health) OnBrokerWrite(kgo.BrokerMetadata, int16, int, time.Duration, time.Duration, error) {
	h.circuit.Try()
}

// OnBrokerE2E implements [kgo.HookBrokerE2E].
func (h *health) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e kgo.BrokerE2E) {
	if err := e.Err(); err != nil {
		h.failed()
		h.metrics.retries.Inc()
		h.suspect(err)
		return
	}
	h.answered()
	if key == int16(kmsg.InitProducerID) {
		h.slowDown()
	}
}

// slowDown delays the answer that the client library waits for.
func (h *health) slowDown() {
	wait := initInterval - since(&h.inited)
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-h.quit:
		}
	}
	h.inited.Store(cdc.Stamp(time.Now()))
}

func (h *health) answered() {
	h.contact.Store(cdc.Stamp(time.Now()))
	if h.lost.Swap(false) {
		h.metrics.reconnects.Inc()
		h.repeats.Log(h.log, slog.LevelInfo, "again", "broker answers again")
	}
}

func (h *health) failed() {
	if h.contact.Load() > 0 {
		h.lost.Store(true)
	}
}

// since returns how long ago a stamp was, the longest time if it never was.
func since(stamp *atomic.Int64) time.Duration {
	at := stamp.Load()
	if at == 0 {
		return math.MaxInt64
	}
	return time.Since(cdc.Stamped(at))
}
