package kafka

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
)

// Reopening is a [Sink] that can be opened again after it has given up: for a
// record that a broker has refused, and that is to go elsewhere.
type Reopening struct {
	cfg     Config
	metrics *metrics
	sink    atomic.Pointer[Sink]
}

// NewReopening returns a Reopening, or all problems of cfg. It does not dial. It
// must be closed.
func NewReopening(cfg Config) (*Reopening, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	r := &Reopening{cfg: cfg, metrics: newMetrics(cfg.Registerer)}
	s, err := openSink(cfg, r.metrics)
	if err != nil {
		return nil, err
	}
	r.sink.Store(s)
	registerGauges(cfg.Registerer, r.sink.Load)
	return r, nil
}

// Reopen makes a sink that has given up take records again. It waits, until ctx is
// done, for what it had in flight, must not run beside Produce, and does nothing to
// a sink that has not given up. What is known about topics is asked for again.
func (r *Reopening) Reopen(ctx context.Context) error {
	old := r.sink.Load()
	if old.failure() == nil {
		return nil
	}
	if err := old.Flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	s, err := openSink(r.cfg, r.metrics)
	if err != nil {
		return err
	}
	r.sink.Store(s)
	old.Close()
	return nil
}

// Produce implements [cdc.Sink]; see [Sink.Produce].
func (r *Reopening) Produce(ctx context.Context, rec *cdc.Record, done func(*cdc.Record, error)) error {
	return r.sink.Load().Produce(ctx, rec, done)
}

// Flush implements [cdc.Sink].
func (r *Reopening) Flush(ctx context.Context) error { return r.sink.Load().Flush(ctx) }

// Healthy is that of [Sink.Healthy].
func (r *Reopening) Healthy(ctx context.Context) error { return r.sink.Load().Healthy(ctx) }

// Watch is that of [Sink.Watch].
func (r *Reopening) Watch(ctx context.Context) error { return watch(ctx, r.Healthy, r.sink.Load) }

// Circuit is that of [Sink.Circuit].
func (r *Reopening) Circuit() circuit.State { return r.sink.Load().Circuit() }

// Close is that of [Sink.Close].
func (r *Reopening) Close() { r.sink.Load().Close() }
