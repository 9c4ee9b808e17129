package outbox

import (
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/cloudevents/sdk-go/protocol/kafka_sarama/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/jackc/pgx/v5/pgtype"
)

// An event has the headers of CloudEvents, and one that cannot be one is poison.
func TestCloudEvents(t *testing.T) {
	cfg := Config{CloudEvents: true}
	rec := route(t, cfg, event(cellText("type", pgtype.TextOID, "OrderCreated"), cellText("payload", pgtype.JSONBOID, `{"n": 1}`)))
	got := map[string]string{}
	for _, h := range rec.Headers {
		got[h.Key] = string(h.Value)
	}
	want := map[string]string{
		"id": testID, "ce_id": testID, "ce_source": "/public/outbox", "ce_specversion": "1.0", "ce_type": "OrderCreated",
		"ce_time": rec.Timestamp.UTC().Format(time.RFC3339Nano), "content-type": "application/json",
	}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("header %s is %q, want %q", key, got[key], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("headers %v, want %v", got, want)
	}
	r, err := NewRouter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Route(event(cellText("type", pgtype.TextOID, ""))); err == nil || !strings.Contains(err.Error(), "CloudEvents") {
		t.Errorf("Route() = %v for an event without a type", err)
	}
}

// The CloudEvents SDK reads a record as the event that it is.
func TestCloudEventsSDK(t *testing.T) {
	rec := route(t, Config{CloudEvents: true, CloudEventsSource: "https://shop.example/orders"},
		event(cellText("type", pgtype.TextOID, "OrderCreated"), cellText("payload", pgtype.JSONBOID, `{"n": 1}`)))
	message := &sarama.ConsumerMessage{Topic: rec.Topic, Key: rec.Key, Value: rec.Value}
	for _, h := range rec.Headers {
		message.Headers = append(message.Headers, &sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
	}
	got, err := binding.ToEvent(t.Context(), kafka_sarama.NewMessageFromConsumerMessage(message))
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if got.ID() != testID || got.Type() != "OrderCreated" || got.Source() != "https://shop.example/orders" ||
		got.DataContentType() != "application/json" || string(got.Data()) != `{"n": 1}` || !got.Time().Equal(rec.Timestamp) {
		t.Errorf("read as %s", got)
	}
}
