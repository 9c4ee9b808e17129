package schema

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/walpost/walpost/pkg/cdc"
)

const (
	jsonSchema = `{"type":"object","required":["id"],"properties":{"id":{"type":"integer"},"note":{"type":"string"}},"additionalProperties":false}`
	avroSchema = `{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"note","type":["null","string"],"default":null}]}`
)

// kept is a sink that keeps the values of what it was given.
type kept struct {
	values [][]byte
	err    error
}

func (k *kept) Produce(_ context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	if k.err != nil {
		return k.err
	}
	k.values = append(k.values, r.Value)
	done(r, nil)
	return nil
}

func (*kept) Flush(context.Context) error { return nil }

func newRegistry(t *testing.T, opts ...srfake.Option) *srfake.Registry {
	t.Helper()
	r := srfake.New(opts...)
	t.Cleanup(r.Close)
	return r
}

func register(t *testing.T, r *srfake.Registry, subject string, s sr.Schema) int {
	t.Helper()
	id, _, err := r.RegisterSchema(subject, s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newSink(t *testing.T, inner cdc.Sink, cfg Config) *Sink {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := NewSink(inner, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func produce(ctx context.Context, s *Sink, topic string, value []byte) error {
	r := cdc.NewRecord()
	r.Topic, r.Key, r.Value = topic, []byte("k"), value
	return s.Produce(ctx, r, func(*cdc.Record, error) {})
}

func header(id int) string { return string(appendHeader(nil, id)) }

func TestValues(t *testing.T) {
	registry := newRegistry(t)
	j := register(t, registry, "orders-value", sr.Schema{Type: sr.TypeJSON, Schema: jsonSchema})
	a := register(t, registry, "bills-value", sr.Schema{Type: sr.TypeAvro, Schema: avroSchema})
	for _, test := range []struct{ name, topic, payload, want, poison string }{
		{"JSON", "orders", `{ "id" : 1 }`, header(j) + `{ "id" : 1 }`, ""},
		{"JSON of another type", "orders", `{"id":"secret"}`, "", "rule #/properties/id/type"},
		{"JSON with another field", "orders", `{"id":1,"x":"secret"}`, "", "rule #/additionalProperties"},
		{"no JSON", "orders", "secret", "", "it is not JSON"},
		{"empty", "orders", "", "", "it is not JSON"},
		{"Avro", "bills", `{"note":"x","id":1}`, header(a) + "\x02\x02\x02x", ""},
		{"Avro with a default", "bills", `{"id":1}`, header(a) + "\x02\x00", ""},
		{"Avro with a tagged union", "bills", `{"id":1,"note":{"string":"x"}}`, header(a) + "\x02\x02\x02x", ""},
		{"Avro of another type", "bills", `{"id":"secret"}`, "", "field id"},
		{"Avro without a field", "bills", `{"note":"secret"}`, "", "a field is missing or of another type"},
		{"Avro with another field", "bills", `{"id":1,"x":"secret"}`, "", "it has a field that the schema has not"},
		{"Avro of no JSON", "bills", "secret", "", "it is not JSON"},
		{"serialised already", "nowhere", "\x00\x00\x00\x00\x07abc", "\x00\x00\x00\x00\x07abc", ""},
		{"dead letter", "dead", `{}`, `{}`, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var inner kept
			s := newSink(t, &inner, Config{URL: registry.URL(), DeadLetterTopic: "dead"})
			err := produce(t.Context(), s, test.topic, []byte(test.payload))
			if test.poison == "" {
				if err != nil || string(inner.values[0]) != test.want {
					t.Errorf("got %q, %v, want %q", inner.values, err, test.want)
				}
				return
			}
			var poison *cdc.PoisonError
			if !errors.As(err, &poison) || poison.Reason != cdc.PoisonRow || !strings.Contains(err.Error(), test.poison) {
				t.Errorf("got %v, want poison of the row: %s", err, test.poison)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%v tells the payload", err)
			}
		})
	}
}

func TestTombstone(t *testing.T) {
	var inner kept
	s := newSink(t, &inner, Config{URL: "http://127.0.0.1:1"})
	if err := produce(t.Context(), s, "orders", nil); err != nil || inner.values[0] != nil {
		t.Errorf("got %q, %v, want a null", inner.values, err)
	}
}

// A record that the inner sink did not take is as it was: it may become a dead letter.
func TestRefusedRecordIsAsItWas(t *testing.T) {
	registry := newRegistry(t)
	register(t, registry, "orders-value", sr.Schema{Type: sr.TypeJSON, Schema: jsonSchema})
	s := newSink(t, &kept{err: cdc.Poison(cdc.PoisonOversize, "large")}, Config{URL: registry.URL()})
	r := cdc.NewRecord()
	r.Topic, r.Value = "orders", []byte(`{"id":1}`)
	if err := s.Produce(t.Context(), r, nil); err == nil || string(r.Value) != `{"id":1}` {
		t.Errorf("got %q, %v", r.Value, err)
	}
}

// A registry that does not answer, refuses or has no such subject, or none that can be used,
// is waited for, and said so.
func TestOutages(t *testing.T) {
	for _, test := range []struct {
		name, reason string
		begin        func(*testing.T, *srfake.Registry)
	}{
		{"missing subject", "orders-value", func(*testing.T, *srfake.Registry) {}},
		{"down", "out of order", func(_ *testing.T, r *srfake.Registry) {
			r.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
				http.Error(w, "out of order", http.StatusServiceUnavailable)
				return true
			})
		}},
		{"a kind that is not written", "want JSON or AVRO", func(_ *testing.T, r *srfake.Registry) {
			r.SeedSchema("orders-value", 1, 77, sr.Schema{Type: sr.TypeProtobuf, Schema: `syntax = "proto3";`})
		}},
		{"a reference to a file", "none of its references", func(t *testing.T, r *srfake.Registry) {
			r.SeedSchema("orders-value", 1, 78, sr.Schema{Type: sr.TypeJSON, Schema: `{"$ref":"file:///etc/hostname"}`})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			registry := newRegistry(t)
			test.begin(t, registry)
			var inner kept
			s := newSink(t, &inner, Config{URL: registry.URL()})
			ended := make(chan error, 1)
			go func() { ended <- produce(t.Context(), s, "orders", []byte(`{"id":1}`)) }()
			awaitDown(t, s, test.reason)
			registry.ClearInterceptors()
			registry.SeedSchema("orders-value", 2, 99, sr.Schema{Type: sr.TypeJSON, Schema: jsonSchema})
			if err := <-ended; err != nil || s.Healthy() != nil || len(inner.values) != 1 {
				t.Errorf("got %v, %v, %q", err, s.Healthy(), inner.values)
			}
		})
	}
}

// In front of a transactional sink a wait is told of before it, once for a record.
func TestTellsOfWait(t *testing.T) {
	registry := newRegistry(t)
	var inner kept
	s := newSink(t, &inner, Config{URL: registry.URL(), Transactional: true})
	r := cdc.NewRecord()
	r.Topic, r.Key, r.Value = "orders", []byte("k"), []byte(`{"id":1}`)
	done := func(*cdc.Record, error) {}
	if err := s.Produce(t.Context(), r, done); !errors.Is(err, cdc.ErrWait) || s.Healthy() != nil {
		t.Fatalf("got %v and %v, want ErrWait and no wait", err, s.Healthy())
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Produce(t.Context(), r, done) }()
	awaitDown(t, s, "orders-value")
	id := register(t, registry, "orders-value", sr.Schema{Type: sr.TypeJSON, Schema: jsonSchema})
	if err := <-ended; err != nil || string(inner.values[0]) != header(id)+`{"id":1}` {
		t.Errorf("got %v, %q", err, inner.values)
	}
}

func awaitDown(t *testing.T, s *Sink, reason string) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(10 * time.Second)
	for s.Healthy() == nil {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatal("nothing is said of the outage")
		}
	}
	if got := s.Healthy().Error(); !strings.Contains(got, "schema registry: subject orders-value: ") || !strings.Contains(got, reason) {
		t.Errorf("got %q, want %q", got, reason)
	}
}

func TestContextEndsTheWait(t *testing.T) {
	s := newSink(t, &kept{}, Config{URL: "http://127.0.0.1:1"})
	ctx, cancel := context.WithCancelCause(t.Context())
	stopping := errors.New("stopping")
	ended := make(chan error, 1)
	go func() { ended <- produce(ctx, s, "orders", []byte(`{}`)) }()
	awaitDown(t, s, "")
	cancel(stopping)
	if err := <-ended; !errors.Is(err, stopping) || s.Healthy() != nil {
		t.Errorf("got %v, %v", err, s.Healthy())
	}
}

// A payload is compared with what is registered by then, and a schema that is known is used
// while the registry is away.
func TestRefresh(t *testing.T) {
	registry := newRegistry(t)
	var asked atomic.Int64
	registry.Intercept(func(http.ResponseWriter, *http.Request) bool { asked.Add(1); return false })
	registry.SeedSchema("orders-value", 1, 1, sr.Schema{Type: sr.TypeJSON, Schema: jsonSchema})
	var inner kept
	s := newSink(t, &inner, Config{URL: registry.URL()})
	give := func(payload string, id int) {
		t.Helper()
		if err := produce(t.Context(), s, "orders", []byte(payload)); err != nil || string(inner.values[len(inner.values)-1]) != header(id)+payload {
			t.Errorf("got %q, %v, want id %d", inner.values, err, id)
		}
	}
	give(`{"id":1}`, 1)
	give(`{"id":2}`, 1)
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	registry.SeedSchema("orders-value", 2, 2, sr.Schema{Type: sr.TypeJSON, Schema: `{"type":"object"}`})
	give(`{"id":3}`, 1)
	give(`{"other":1}`, 2)
	s.known["orders"].fetched = time.Now().Add(-time.Hour)
	registry.SeedSchema("orders-value", 3, 3, sr.Schema{Type: sr.TypeJSON, Schema: `{}`})
	give(`{"id":4}`, 3)
	registry.Close()
	s.known["orders"].fetched = time.Now().Add(-time.Hour)
	give(`{"id":5}`, 3)
}

// Thousands of topics, one after the other and again, are asked for once each, and those with the
// same schema have it once in memory.
func TestManyTopics(t *testing.T) {
	const topics = 2 * refreshedTopics
	registry := newRegistry(t)
	var asked atomic.Int64
	registry.Intercept(func(http.ResponseWriter, *http.Request) bool { asked.Add(1); return false })
	for i := range topics {
		register(t, registry, fmt.Sprintf("t%d-value", i), sr.Schema{Type: sr.TypeJSON, Schema: jsonSchema})
	}
	s := newSink(t, &kept{}, Config{URL: registry.URL(), Refresh: time.Hour})
	for range 2 {
		for i := range topics {
			if err := produce(t.Context(), s, fmt.Sprintf("t%d", i), []byte(`{"id":1}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := asked.Load(); n != topics || len(s.schemas) != 1 {
		t.Errorf("asked %d times, and %d schemas are in memory, want %d and 1", n, len(s.schemas), topics)
	}
	if got := s.refresh(); got != 2*time.Hour {
		t.Errorf("asked again every %s, want twice as rarely as with half the topics", got)
	}
}

// A registry that was made anew gives the ids to the schemas in another order. What was made of an
// id is not used for another schema then.
func TestRegistryMadeAnew(t *testing.T) {
	const a = `{"type":"record","name":"A","fields":[{"name":"x","type":"long"},{"name":"y","type":"long"}]}`
	const b = `{"type":"record","name":"B","fields":[{"name":"y","type":"long"},{"name":"x","type":"long"}]}`
	before, after := newRegistry(t), newRegistry(t)
	var inner kept
	s := newSink(t, &inner, Config{URL: before.URL(), Refresh: time.Nanosecond})
	give := func() {
		t.Helper()
		for _, topic := range []string{"a", "b"} {
			if err := produce(t.Context(), s, topic, []byte(`{"x":1,"y":2}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	register(t, before, "a-value", sr.Schema{Type: sr.TypeAvro, Schema: a})
	register(t, before, "b-value", sr.Schema{Type: sr.TypeAvro, Schema: b})
	give()
	register(t, after, "b-value", sr.Schema{Type: sr.TypeAvro, Schema: b})
	register(t, after, "a-value", sr.Schema{Type: sr.TypeAvro, Schema: a})
	s.client = newSink(t, &inner, Config{URL: after.URL()}).client
	give()
	want := []string{"\x00\x00\x00\x00\x01\x02\x04", "\x00\x00\x00\x00\x02\x04\x02", "\x00\x00\x00\x00\x02\x02\x04", "\x00\x00\x00\x00\x01\x04\x02"}
	if got := inner.values; fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A round that ends in a wait says nothing of the next one's records: the transaction is committed
// before they wait too, if it has any.
func TestWaitIsToldOfAgain(t *testing.T) {
	registry := newRegistry(t)
	register(t, registry, "known-value", sr.Schema{Type: sr.TypeJSON, Schema: jsonSchema})
	s := newSink(t, &kept{}, Config{URL: registry.URL(), Transactional: true})
	r := cdc.NewRecord()
	give := func(topic string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		r.Topic, r.Value = topic, []byte(`{"id":1}`)
		return s.Produce(ctx, r, func(*cdc.Record, error) {})
	}
	for _, step := range []struct {
		topic string
		want  error
	}{{"orders", cdc.ErrWait}, {"orders", context.DeadlineExceeded}, {"known", nil}, {"bills", cdc.ErrWait}, {"bills", context.DeadlineExceeded}} {
		if err := give(step.topic); !errors.Is(err, step.want) {
			t.Errorf("topic %s: %v, want %v", step.topic, err, step.want)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	s := newSink(t, &kept{}, Config{URL: "http://127.0.0.1:1"})
	for i := range maxTopics + 10 {
		s.remember(fmt.Sprint(i), &compiled{source: source{byte(i), byte(i >> 8)}}, time.Now())
	}
	if len(s.known) != maxTopics || len(s.schemas) != maxTopics {
		t.Errorf("got %d topics and %d schemas", len(s.known), len(s.schemas))
	}
	same := &compiled{source: source{31: 1}}
	for _, topic := range slices.Collect(maps.Keys(s.known)) {
		s.remember(topic, same, time.Now())
	}
	if len(s.known) != maxTopics || len(s.schemas) != 1 {
		t.Errorf("got %d topics and %d schemas, want one for all", len(s.known), len(s.schemas))
	}
}

func TestReferences(t *testing.T) {
	registry := newRegistry(t)
	register(t, registry, "money-json", sr.Schema{Type: sr.TypeJSON, Schema: `{"type":"integer"}`})
	register(t, registry, "money-avro", sr.Schema{Type: sr.TypeAvro, Schema: `{"type":"record","name":"Money","fields":[{"name":"cents","type":"long"}]}`})
	j := register(t, registry, "orders-value", sr.Schema{
		Type: sr.TypeJSON, Schema: `{"properties":{"total":{"$ref":"money.json"}}}`,
		References: []sr.SchemaReference{{Name: "money.json", Subject: "money-json", Version: 1}},
	})
	a := register(t, registry, "bills-value", sr.Schema{
		Type: sr.TypeAvro, Schema: `{"type":"record","name":"Bill","fields":[{"name":"total","type":"Money"}]}`,
		References: []sr.SchemaReference{{Name: "Money", Subject: "money-avro", Version: 1}},
	})
	var inner kept
	s := newSink(t, &inner, Config{URL: registry.URL()})
	if err := errors.Join(produce(t.Context(), s, "orders", []byte(`{"total":5}`)), produce(t.Context(), s, "bills", []byte(`{"total":{"cents":5}}`))); err != nil {
		t.Fatal(err)
	}
	if string(inner.values[0]) != header(j)+`{"total":5}` || string(inner.values[1]) != header(a)+"\x0a" {
		t.Errorf("got %q", inner.values)
	}
	if err := produce(t.Context(), s, "orders", []byte(`{"total":"x"}`)); err == nil {
		t.Error("a reference is not compared")
	}
}

func TestBasicAuth(t *testing.T) {
	registry := newRegistry(t, srfake.WithAuth("Basic bWU6cGFzcw=="))
	registry.SeedSchema("orders-value", 1, 1, sr.Schema{Type: sr.TypeJSON, Schema: jsonSchema})
	s := newSink(t, &kept{}, Config{URL: registry.URL(), Username: "me", Password: "pass"})
	if err := produce(t.Context(), s, "orders", []byte(`{"id":1}`)); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	for _, url := range []string{"", "registry:8081", "ftp://registry"} {
		if _, err := NewSink(&kept{}, Config{URL: url}); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
}
