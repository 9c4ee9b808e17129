package main

import (
	"log/slog"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/sink/schema"
)

// newSchemas returns a sink around inner that writes values by the schemas of the registry,
// or nil if there is none.
func newSchemas(cfg config.Config, inner cdc.Sink, log *slog.Logger) (*schema.Sink, error) {
	r := cfg.Kafka.SchemaRegistry
	if r.URL == "" {
		return nil, nil
	}
	return schema.NewSink(inner, schema.Config{
		URL: r.URL, Username: r.Username, Password: string(r.Password), DeadLetterTopic: cfg.DeadLetters(), Logger: log,
	})
}

// withSchemas is newSchemas for a replay: without a registry it returns inner.
func withSchemas(cfg config.Config, inner cdc.Sink, log *slog.Logger) (cdc.Sink, error) {
	s, err := newSchemas(cfg, inner, log)
	if s == nil || err != nil {
		return inner, err
	}
	return s, nil
}
