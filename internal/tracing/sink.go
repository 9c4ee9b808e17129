package tracing

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/walpost/walpost/pkg/cdc"
)

const scope = "github.com/walpost/walpost/internal/tracing"

// errAborted is why spans end whose Kafka transaction was given up.
var errAborted = errors.New("the Kafka transaction is aborted, and the record is published again")

// Sink is a sink whose records have spans. Its methods may be called as the inner sink's.
type Sink struct {
	cdc.Sink
	tracer        trace.Tracer
	transactional bool
	delivered     func(*cdc.Record, error) // the one that all records share

	mu       sync.Mutex
	flying   map[*cdc.Record]flight // guarded by mu
	gathered []trace.Span           // guarded by mu; in the open transaction
}

// flight is a record that the inner sink has.
type flight struct {
	span trace.Span
	done func(*cdc.Record, error)
}

// NewSink returns a Sink around inner. The records of a transactional one are acknowledged
// by the store that [Sink.Store] returns.
func NewSink(inner cdc.Sink, provider trace.TracerProvider, transactional bool) *Sink {
	s := &Sink{
		Sink: inner, tracer: provider.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		transactional: transactional, flying: map[*cdc.Record]flight{},
	}
	s.delivered = s.finish
	return s
}

// Produce implements [cdc.Sink]. A record that the inner sink did not take for another reason
// than poison comes again, and has a span only then.
func (s *Sink) Produce(ctx context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	if r.CommitLSN == 0 { // the dead-letter topic's own records are of no event
		return s.Sink.Produce(ctx, r, done)
	}
	span := s.start(r)
	s.mu.Lock()
	s.flying[r] = flight{span, done}
	s.mu.Unlock()
	err := s.Sink.Produce(ctx, r, s.delivered)
	if err != nil {
		s.take(r)
		if errors.As(err, new(*cdc.PoisonError)) {
			end(span, err)
		}
	}
	return err
}

// start makes the span that begins with the commit.
func (s *Sink) start(r *cdc.Record) trace.Span {
	attributes := append(make([]attribute.KeyValue, 0, 10),
		semconv.MessagingSystemKafka, semconv.MessagingOperationName("send"), semconv.MessagingOperationTypeSend,
		semconv.MessagingDestinationName(r.Topic), semconv.MessagingMessageBodySize(len(r.Value)),
		attribute.String("walpost.commit_lsn", r.CommitLSN.String()), attribute.Int64("walpost.ordinal", r.Ordinal))
	if len(r.ID) > 0 {
		attributes = append(attributes, semconv.MessagingMessageID(string(r.ID)))
	}
	if r.Partition >= 0 {
		attributes = append(attributes, semconv.MessagingDestinationPartitionID(strconv.Itoa(int(r.Partition))))
	}
	if r.Value == nil {
		attributes = append(attributes, semconv.MessagingKafkaMessageTombstone(true))
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attributes...)}
	if !r.CommitTime.IsZero() {
		options = append(options, trace.WithTimestamp(r.CommitTime))
	}
	_, span := s.tracer.Start(parent(r), "send "+r.Topic, options...)
	return span
}

// parent returns a context with what the record's headers say, which is nothing if they are
// not well-formed. The context is not the caller's: that has no part in the trace.
func parent(r *cdc.Record) context.Context {
	return propagation.TraceContext{}.Extract(context.Background(), carrier{r})
}

// carrier shows a record's headers to a propagator.
type carrier struct{ r *cdc.Record }

// Get returns the last value, as consumers read a header that is there twice.
func (c carrier) Get(key string) string {
	for i := len(c.r.Headers) - 1; i >= 0; i-- {
		if c.r.Headers[i].Key == key {
			return string(c.r.Headers[i].Value)
		}
	}
	return ""
}

// Set does nothing: headers go on as they are.
func (carrier) Set(string, string) {}

// Keys implements [propagation.TextMapCarrier].
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c.r.Headers))
	for _, h := range c.r.Headers {
		keys = append(keys, h.Key)
	}
	return keys
}

// finish is what the inner sink calls for every record.
func (s *Sink) finish(r *cdc.Record, err error) {
	f := s.take(r)
	if err == nil && s.transactional {
		s.mu.Lock()
		s.gathered = append(s.gathered, f.span)
		s.mu.Unlock()
	} else {
		end(f.span, err)
	}
	f.done(r, err)
}

func (s *Sink) take(r *cdc.Record) flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flying[r]
	delete(s.flying, r)
	return f
}

// settle ends the spans of the open transaction.
func (s *Sink) settle(err error) {
	s.mu.Lock()
	spans := s.gathered
	s.gathered = nil
	s.mu.Unlock()
	for _, span := range spans {
		end(span, err)
	}
}

// end ends a span now.
func end(span trace.Span, err error) {
	if err != nil {
		kind := "_OTHER"
		var poison *cdc.PoisonError
		if errors.As(err, &poison) {
			kind = string(poison.Reason)
		}
		span.SetAttributes(semconv.ErrorTypeKey.String(kind))
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// Store returns a store around inner, with whose saves the spans of a transactional sink end.
func (s *Sink) Store(inner cdc.Store) cdc.Store {
	if !s.transactional {
		return inner
	}
	return store{inner, s}
}

type store struct {
	cdc.Store
	sink *Sink
}

// Acquire implements [cdc.Store].
func (s store) Acquire(ctx context.Context) (cdc.Checkpoint, error) {
	cp, err := s.Store.Acquire(ctx)
	if err == nil {
		s.sink.settle(errAborted)
	}
	return cp, err
}

// Save implements [cdc.Store].
func (s store) Save(ctx context.Context, pos cdc.Position) error {
	err := s.Store.Save(ctx, pos)
	s.sink.settle(err)
	return err
}
