package kafka

import (
	"context"
	"errors"
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

	// warnInterval is the least time between two warnings about the same.
	warnInterval = 30 * time.Second

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
	quit    <-chan struct{}

	// As [cdc.Stamp]; zero if it never was.
	progress atomic.Int64 // a record was acknowledged, or was the first in flight
	contact  atomic.Int64 // a broker answered
	inited   atomic.Int64 // a request for a producer id was answered

	ending atomic.Bool // a transaction is being ended, which counts as in flight

	lost atomic.Bool // no broker has answered since a connection failed

	mu      sync.Mutex
	holding error                // guarded by mu; why nothing can be handed over
	trouble error                // guarded by mu; why nothing is acknowledged, as far as is known
	seen    time.Time            // guarded by mu; when trouble was last seen
	warned  map[string]time.Time // guarded by mu

	pinging sync.Mutex // held during a ping
	pinged  time.Time  // guarded by pinging
	pingErr error      // guarded by pinging
}

func newHealth(log *slog.Logger, m *metrics, b *budget, quit <-chan struct{}) *health {
	return &health{log: log, metrics: m, budget: b, quit: quit, warned: make(map[string]time.Time)}
}

// Healthy returns nil if Kafka takes records, as far as is known, or else the
// reason. While nothing is in flight it asks a broker, at most every 2 s and
// for at most 2 s. Safe to call from any goroutine.
func (s *Sink) Healthy(ctx context.Context) error {
	if err := s.failure(); err != nil {
		return err
	}
	h := s.health
	if err := h.problem(); err != nil {
		return err
	}
	if h.stalled(stallAfter) {
		return errors.New("kafka: nothing was acknowledged for some time, for a reason not known")
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
		err = fmt.Errorf("kafka: no broker answers: %w", err)
	}
	h.pinged, h.pingErr = time.Now(), err
	return err
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
	h.warn("topic "+topic, "topic is not ready, holding its records", "topic", topic, "err", err, "hint", hintFor(err))
}

// block says why nothing can be handed over.
func (h *health) block(why error) {
	h.metrics.retries.Inc()
	h.mu.Lock()
	h.holding = why
	h.mu.Unlock()
}

// release says that what was waited for is there.
func (h *health) release() {
	h.mu.Lock()
	held := h.holding != nil
	h.holding = nil
	clear(h.warned)
	h.mu.Unlock()
	if held {
		h.log.Info("what was waited for is ready")
	}
}

// suspect says that err may be why nothing is acknowledged.
func (h *health) suspect(err error) {
	h.mu.Lock()
	h.trouble, h.seen = fmt.Errorf("kafka: nothing is acknowledged: %w", err), time.Now()
	h.mu.Unlock()
	if h.stalled(curiousAfter) {
		h.warn("stalled", "nothing is acknowledged, holding records", "err", err, "hint", hintFor(err))
	}
}

// warn logs once in a while for a key.
func (h *health) warn(key, msg string, args ...any) {
	h.mu.Lock()
	last, seen := h.warned[key]
	now := time.Now()
	quiet := seen && now.Sub(last) < warnInterval
	if !quiet {
		h.warned[key] = now
	}
	h.mu.Unlock()
	if !quiet {
		h.log.Warn(msg, args...)
	}
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
		h.log.Info("broker answers again")
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
