// Package tracing makes a span of each record's way, from the commit of its row to
// Kafka's acknowledgement, and sends it where OpenTelemetry's own variables say. The
// span is a child of the record's traceparent header, which goes on as it is.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/walpost/walpost/pkg/circuit"
)

// ServiceName is the service's name where OTEL_SERVICE_NAME gives none.
const ServiceName = "walpost"

// Enabled reports whether the standard variables name an endpoint for traces and do not
// turn them off. It logs why nothing is sent to an endpoint that is named.
func Enabled(getenv func(string) string, log *slog.Logger) bool {
	if getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" && getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		return false
	}
	if strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	switch exporter := getenv("OTEL_TRACES_EXPORTER"); exporter {
	case "", "otlp":
	case "none":
		return false
	default:
		log.Warn("no spans are sent", "OTEL_TRACES_EXPORTER", exporter, "hint", "set it to otlp")
		return false
	}
	protocol := getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = getenv("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	if protocol != "" && protocol != "http/protobuf" {
		log.Warn("no spans are sent", "protocol", protocol,
			"hint", "set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL to http/protobuf, and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT to the port for it")
		return false
	}
	return true
}

// NewProvider returns a provider that sends spans in the background. Endpoint, service name,
// sampler and limits are those of the OTEL_* variables, which the SDK itself reads. It does
// not dial. It must be shut down.
func NewProvider(ctx context.Context, version string, log *slog.Logger) (*trace.TracerProvider, error) {
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("open trace exporter: %w", err)
	}
	res, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName(ServiceName), semconv.ServiceVersion(version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("read OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(&complaints{log: log}) // the SDK knows only one for the process
	return trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(res)), nil
}

// complaints logs what the SDK cannot return.
type complaints struct {
	log     *slog.Logger
	repeats circuit.Repeats
}

// Handle implements [otel.ErrorHandler].
func (c *complaints) Handle(err error) {
	c.repeats.Log(c.log, slog.LevelWarn, "export", "spans are not sent", "error", err)
}
