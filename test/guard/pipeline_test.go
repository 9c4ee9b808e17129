package guard

import (
	"context"
	"fmt"
	"testing"

	"github.com/walpost/walpost/pkg/cdc"
)

// running is a stream that runs: its context and its handler.
type running struct {
	ctx context.Context
	h   cdc.Handler
}

// underPipeline calls use with a pipeline's handler, and waits for the pipeline's end.
func underPipeline(t testing.TB, cfg cdc.Config, use func(running)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	src := source{make(chan running)}
	cfg.Source = src
	ended := make(chan error, 1)
	go func() { ended <- cdc.NewPipeline(cfg).Run(ctx) }()
	select {
	case r := <-src.streams:
		use(r)
	case err := <-ended:
		t.Fatalf("Run() = %v before it streamed", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatalf("Run() = %v", err)
	}
}

// source is a server whose only stream gives its handler away.
type source struct{ streams chan running }

// Ping implements [cdc.Source].
func (source) Ping(context.Context) error { return nil }

// Open implements [cdc.Source].
func (s source) Open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	server := cdc.Position{SystemID: 7, Timeline: 1, LSN: 1 << 50}
	if _, err := position(ctx, server); err != nil {
		return nil, fmt.Errorf("position: %w", err)
	}
	return handing{s}, nil
}

type handing struct{ source }

// Start implements [cdc.Stream].
func (handing) Start() cdc.Position { return cdc.Position{SystemID: 7, Timeline: 1, LSN: 1} }

// Run implements [cdc.Stream].
func (st handing) Run(ctx context.Context, h cdc.Handler) error {
	st.streams <- running{ctx, h}
	<-ctx.Done()
	return nil
}

// Stop implements [cdc.Stream].
func (handing) Stop() {}

// Confirm implements [cdc.Stream].
func (handing) Confirm(cdc.LSN) {}

// Close implements [cdc.Stream].
func (handing) Close() error { return nil }
