package main

import (
	"context"
	"os"
	"time"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/tracing"
	"github.com/walpost/walpost/pkg/cdc"
)

// flushTimeout bounds the wait for the last spans: nothing that was delivered depends on it.
const flushTimeout = 2 * time.Second

// traced returns a sink and the store for the pipeline: with a span for each record if the
// environment asks for that, else as they are.
func (s *service) traced(inner cdc.Sink) (cdc.Sink, cdc.Store, error) {
	if !tracing.Enabled(os.Getenv, s.log) {
		return inner, s.store, nil
	}
	var err error
	if s.spans, err = tracing.NewProvider(context.Background(), readBuildInfo().Version, s.log); err != nil {
		return nil, nil, err
	}
	sink := tracing.NewSink(inner, s.spans, s.cfg.Delivery.Guarantee == config.ExactlyOnce)
	return sink, sink.Store(s.store), nil
}

// flushSpans sends the last spans.
func (s *service) flushSpans() {
	if s.spans == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := s.spans.Shutdown(ctx); err != nil {
		s.log.Warn("the last spans are not sent", "error", err)
	}
}
