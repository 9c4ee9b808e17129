package tracing

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
	"github.com/walpost/walpost/pkg/sink/kafka"
	"github.com/walpost/walpost/pkg/sink/sinktest"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
	parent1 = "00-" + traceID + "-" + spanID + "-01"
)

var committed = time.Now().Add(-time.Second).Truncate(time.Microsecond)

func record(traceparent string) *cdc.Record {
	r := cdc.NewRecord()
	r.Topic, r.Key, r.Value, r.ID = "orders", []byte("k"), []byte("secret"), []byte("e1")
	r.CommitLSN, r.Ordinal, r.CommitTime, r.Timestamp = 16, 1, committed, committed
	r.Headers = append(r.Headers, cdc.Header{Key: "id", Value: r.ID})
	if traceparent != "" {
		r.Headers = append(r.Headers, cdc.Header{Key: "traceparent", Value: []byte(traceparent)}, cdc.Header{Key: "tracestate", Value: []byte("a=b")})
	}
	return r
}

// scripted answers Produce with err, or calls done with outcome.
type scripted struct {
	cdc.Sink
	err, outcome error
}

func (s scripted) Produce(_ context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	if s.err == nil {
		done(r, s.outcome)
	}
	return s.err
}

// produced returns the spans of one record.
func produced(t *testing.T, inner cdc.Sink, r *cdc.Record) []sdk.ReadOnlySpan {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	s := NewSink(inner, sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)), false)
	_ = s.Produce(t.Context(), r, func(*cdc.Record, error) {})
	if len(s.flying) > 0 {
		t.Errorf("%d records are remembered that are done with", len(s.flying))
	}
	return spans.Ended()
}

func TestParent(t *testing.T) {
	for _, test := range []struct {
		name, header, trace, span, state string
	}{
		{"well-formed", parent1, traceID, spanID, "a=b"},
		{"none", "", "", "0000000000000000", ""},
		{"too short", "00-0af7-b7ad-01", "", "0000000000000000", ""},
		{"no hex", "00-" + traceID + "-zzad6b7169203331-01", "", "0000000000000000", ""},
		{"all zero", "00-00000000000000000000000000000000-" + spanID + "-01", "", "0000000000000000", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			spans := produced(t, scripted{}, record(test.header))
			if len(spans) != 1 {
				t.Fatalf("got %d spans, want 1", len(spans))
			}
			s := spans[0]
			if got := s.Parent().SpanID().String(); got != test.span {
				t.Errorf("parent: got %s, want %s", got, test.span)
			}
			if got := s.SpanContext().TraceID().String(); test.trace != "" && got != test.trace {
				t.Errorf("trace: got %s, want %s", got, test.trace)
			}
			if got := s.SpanContext().TraceState().String(); got != test.state {
				t.Errorf("state: got %q, want %q", got, test.state)
			}
			if !s.StartTime().Equal(committed) || s.Name() != "send orders" || s.Status().Code != 0 {
				t.Errorf("got %s from %s, %v", s.Name(), s.StartTime(), s.Status())
			}
			for _, a := range s.Attributes() {
				if v := a.Value.String(); v == "k" || v == "secret" {
					t.Errorf("attribute %s tells %q", a.Key, v)
				}
			}
		})
	}
}

func TestFailureIsMarked(t *testing.T) {
	poison := cdc.Poison(cdc.PoisonOversize, "too large")
	for _, test := range []struct {
		name  string
		inner scripted
		spans int
		kind  string
	}{
		{"refused", scripted{err: poison}, 1, "oversize"},
		{"given up", scripted{outcome: poison}, 1, "oversize"},
		{"closed", scripted{outcome: errors.New("closed")}, 1, "_OTHER"},
		{"not taken, comes again", scripted{err: context.Canceled}, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			spans := produced(t, test.inner, record(parent1))
			if len(spans) != test.spans {
				t.Fatalf("got %d spans, want %d", len(spans), test.spans)
			}
			for _, s := range spans {
				kind := ""
				for _, a := range s.Attributes() {
					if a.Key == "error.type" {
						kind = a.Value.AsString()
					}
				}
				if s.Status().Code.String() != "Error" || kind != test.kind {
					t.Errorf("got status %v, error.type %q, want %q", s.Status(), kind, test.kind)
				}
			}
		})
	}
}

// In a Kafka transaction a record is acknowledged with its commit, and fails with an abort.
func TestTransactional(t *testing.T) {
	for _, test := range []struct {
		name, status string
		settle       func(context.Context, cdc.Store) error
	}{
		{"saved", "Unset", func(ctx context.Context, s cdc.Store) error { return s.Save(ctx, cdc.Position{LSN: 20}) }},
		{"acquired again", "Error", func(ctx context.Context, s cdc.Store) error { _, err := s.Acquire(ctx); return err }},
	} {
		t.Run(test.name, func(t *testing.T) {
			spans := tracetest.NewSpanRecorder()
			s := NewSink(scripted{}, sdk.NewTracerProvider(sdk.WithSpanProcessor(spans)), true)
			st := s.Store(checkpointtest.NewMemory().Open())
			if _, err := st.Acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
			_ = s.Produce(t.Context(), record(parent1), func(*cdc.Record, error) {})
			if n := len(spans.Ended()); n != 0 {
				t.Fatalf("%d spans ended before the commit", n)
			}
			if err := test.settle(t.Context(), st); err != nil {
				t.Fatal(err)
			}
			if ended := spans.Ended(); len(ended) != 1 || ended[0].Status().Code.String() != test.status {
				t.Errorf("got %d spans, want one with status %s", len(ended), test.status)
			}
		})
	}
}

func TestEnabled(t *testing.T) {
	const endpoint, traces = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	for _, test := range []struct {
		name string
		env  map[string]string
		want bool
	}{
		{"by default", nil, false},
		{"only a name", map[string]string{"OTEL_SERVICE_NAME": "x"}, false},
		{"endpoint", map[string]string{endpoint: "http://x"}, true},
		{"endpoint for traces", map[string]string{traces: "http://x"}, true},
		{"disabled", map[string]string{endpoint: "http://x", "OTEL_SDK_DISABLED": "true"}, false},
		{"no exporter", map[string]string{endpoint: "http://x", "OTEL_TRACES_EXPORTER": "none"}, false},
		{"gRPC", map[string]string{endpoint: "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Enabled(func(k string) string { return test.env[k] }, slog.New(slog.DiscardHandler)); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}

// The decorated sink is still a sink.
func TestSink(t *testing.T) {
	m := sinktest.NewMemory(sinktest.MemoryConfig{})
	defer m.Close()
	s := NewSink(m, sdk.NewTracerProvider(), false)
	acked := make(chan error, 1)
	if err := s.Produce(t.Context(), record(parent1), func(_ *cdc.Record, err error) { acked <- err }); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Flush(t.Context()), <-acked); err != nil {
		t.Error(err)
	}
}

// receiver is an OTLP endpoint.
type receiver struct {
	mu    sync.Mutex
	spans []*otlp.Span // guarded by mu
	names []string     // guarded by mu; the services'
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	var got collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &got); err != nil || req.URL.Path != "/v1/traces" {
		http.Error(w, "no spans", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range got.ResourceSpans {
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				r.names = append(r.names, a.Value.GetStringValue())
			}
		}
		for _, ss := range rs.ScopeSpans {
			r.spans = append(r.spans, ss.Spans...)
		}
	}
}

// source is a slot with one transaction of one row.
type source struct{}

func (source) Ping(context.Context) error { return nil }

func (source) Open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	pos := cdc.Position{SystemID: 1, Timeline: 1, LSN: 1}
	_, err := position(ctx, pos)
	return stream{pos, make(chan struct{})}, err
}

type stream struct {
	start   cdc.Position
	stopped chan struct{}
}

func (s stream) Start() cdc.Position { return s.start }
func (s stream) Stop()               { close(s.stopped) }
func (stream) Confirm(cdc.LSN)       {}
func (stream) Close() error          { return nil }

func (s stream) Run(ctx context.Context, h cdc.Handler) error {
	tx := cdc.Transaction{CommitLSN: 16, CommitTime: committed}
	ev := &cdc.Event{Transaction: tx, Relation: &cdc.Relation{Schema: "public", Name: "outbox"}}
	if err := errors.Join(h.Begin(tx), h.Insert(ctx, ev), h.Commit(17)); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// A pipeline to a Kafka and an OTLP endpoint, as walpost run has it.
func TestPipeline(t *testing.T) {
	var r receiver
	server := httptest.NewServer(&r)
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	t.Setenv("OTEL_SERVICE_NAME", "orders-relay")
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	inner, err := kafka.New(kafka.Config{Brokers: cluster.ListenAddrs(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	provider, err := NewProvider(t.Context(), "test", log)
	if err != nil {
		t.Fatal(err)
	}
	p := cdc.NewPipeline(cdc.Config{
		Source: source{}, Sink: NewSink(inner, provider, false), Store: checkpointtest.NewMemory().Open(), Logger: log,
		Route: func(ev *cdc.Event) (*cdc.Record, error) {
			rec := record(parent1)
			rec.CommitTime = ev.Transaction.CommitTime
			return rec, nil
		},
	})
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for p.Status().Acknowledged < 17 && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	stop()
	if err := errors.Join(<-ended, provider.Shutdown(t.Context())); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spans) != 1 || r.names[0] != "orders-relay" {
		t.Fatalf("got %d spans of %q, want one", len(r.spans), r.names)
	}
	s := r.spans[0]
	if string(s.ParentSpanId) != "\xb7\xad\x6b\x71\x69\x20\x33\x31" || s.Kind != otlp.Span_SPAN_KIND_PRODUCER || s.StartTimeUnixNano != uint64(committed.UnixNano()) {
		t.Errorf("got %v", s)
	}
}
