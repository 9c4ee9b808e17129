package main

import (
	"context"
	"log/slog"
	"strings"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/inspect"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/sink/schema"
)

// newSchemas returns a sink around inner that writes values by the schemas of the registry,
// or nil if there is none. transactional is what inner is.
func newSchemas(cfg config.Config, inner cdc.Sink, transactional bool, log *slog.Logger) (*schema.Sink, error) {
	r := cfg.Kafka.SchemaRegistry
	if r.URL == "" {
		return nil, nil
	}
	return schema.NewSink(inner, schema.Config{
		URL: r.URL, Username: r.Username, Password: string(r.Password), DeadLetterTopic: cfg.DeadLetters(), Transactional: transactional, Logger: log,
	})
}

// withSchemas is newSchemas for a replay: without a registry it returns inner.
func withSchemas(cfg config.Config, inner cdc.Sink, log *slog.Logger) (cdc.Sink, error) {
	s, err := newSchemas(cfg, inner, false, log)
	if s == nil || err != nil {
		return inner, err
	}
	return s, nil
}

// examineSchemas asks the registry, if there is one.
func examineSchemas(ctx context.Context, cfg config.Config) []inspect.Check {
	s, err := newSchemas(cfg, nil, false, slog.New(slog.DiscardHandler))
	if s == nil && err == nil {
		return nil
	}
	const name = "schema registry"
	topic := cfg.Outbox.Topic
	if strings.Contains(topic, "$") {
		topic = "" // rows say which
	}
	missing := false
	if err == nil {
		missing, err = s.Check(ctx, topic)
	}
	switch {
	case missing:
		return []inspect.Check{{Name: name, Verdict: inspect.Warn, Text: "it has no schema for topic " + topic + ", and walpost holds its events until it has", Mend: "register a JSON or Avro schema for the subject " + topic + "-value"}}
	case err != nil:
		return []inspect.Check{failedCheck(name, err, "check kafka.schema_registry.url, username and password, and the registry itself")}
	}
	return []inspect.Check{{Name: name, Verdict: inspect.OK, Text: "answers"}}
}
