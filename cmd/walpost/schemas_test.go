package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/inspect"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
)

const avroSchema = `{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"note","type":["null","string"],"default":null}]}`

// rows is a slot with one transaction of a row for each payload.
type rows []string

func (rows) Ping(context.Context) error { return nil }

func (r rows) Open(ctx context.Context, position func(context.Context, cdc.Position) (cdc.Position, error)) (cdc.Stream, error) {
	pos := cdc.Position{SystemID: 1, Timeline: 1, LSN: 1}
	_, err := position(ctx, pos)
	return &rowStream{rows: r, start: pos, stopped: make(chan struct{})}, err
}

type rowStream struct {
	rows    rows
	start   cdc.Position
	stopped chan struct{}
}

func (s *rowStream) Start() cdc.Position { return s.start }
func (s *rowStream) Stop()               { close(s.stopped) }
func (*rowStream) Confirm(cdc.LSN)       {}
func (*rowStream) Close() error          { return nil }

func (s *rowStream) Run(ctx context.Context, h cdc.Handler) error {
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.stopped:
		case <-hctx.Done():
		}
		cancel()
	}()
	tx := cdc.Transaction{CommitLSN: 16, CommitTime: time.Now()}
	err := h.Begin(tx)
	for _, payload := range s.rows {
		ev := &cdc.Event{
			Transaction: tx, Relation: &cdc.Relation{Schema: "public", Name: "outbox"},
			Values: []cdc.Value{{Format: cdc.Text, Data: []byte(payload)}},
		}
		if err == nil {
			err = h.Insert(hctx, ev)
		}
	}
	if err == nil {
		err = h.Commit(17)
	}
	<-ctx.Done()
	if hctx.Err() != nil {
		return nil
	}
	return err
}

// What a consumer reads decodes with the schema that it names, and a payload that does not
// fit ends the stream as poison, with what is before it published.
func TestSchemas(t *testing.T) {
	registry := srfake.New()
	defer registry.Close()
	id, _, err := registry.RegisterSchema("bills-value", sr.Schema{Type: sr.TypeAvro, Schema: avroSchema})
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "bills"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	cfg, err := config.Load(nil, []string{"WALPOST_KAFKA_BROKERS=" + cluster.ListenAddrs()[0], "WALPOST_KAFKA_SCHEMA_REGISTRY_URL=" + registry.URL()})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	inner, _, err := newDelivery(cfg, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer inner.(interface{ Close() }).Close()
	sink, err := withSchemas(cfg, inner, log)
	if err != nil {
		t.Fatal(err)
	}
	p := cdc.NewPipeline(cdc.Config{
		Source: rows{`{"id":7,"note":"x"}`, `{"id":"seven"}`}, Sink: sink, Store: checkpointtest.NewMemory().Open(), Logger: log,
		Route: func(ev *cdc.Event) (*cdc.Record, error) {
			r := cdc.NewRecord()
			r.Topic, r.Key, r.Timestamp = "bills", []byte("k"), ev.Transaction.CommitTime
			r.Buf = append(r.Buf, ev.Values[0].Data...)
			r.Value = r.Buf
			return r, nil
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var poison *cdc.PoisonError
	if err := p.Run(ctx); !errors.As(err, &poison) || poison.Reason != cdc.PoisonRow || poison.Ordinal != 2 {
		t.Errorf("got %v, want the second row to be poison", err)
	}
	consumer, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics("bills"))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	records := consumer.PollFetches(ctx).Records()
	if len(records) != 1 {
		t.Fatalf("got %d records, want 1", len(records))
	}
	var header sr.ConfluentHeader
	got, rest, err := header.DecodeID(records[0].Value)
	if err != nil || got != id {
		t.Fatalf("got schema %d, %v, want %d", got, err, id)
	}
	var v any
	if _, err := avro.MustParse(avroSchema).Decode(rest, &v); err != nil || fmt.Sprint(v) != "map[id:7 note:x]" {
		t.Errorf("got %v, %v", v, err)
	}
}

// What doctor says of the registry.
func TestExamineSchemas(t *testing.T) {
	registry := srfake.New(srfake.WithAuth("Basic " + base64.StdEncoding.EncodeToString([]byte("u:p"))))
	defer registry.Close()
	if _, _, err := registry.RegisterSchema("bills-value", sr.Schema{Type: sr.TypeAvro, Schema: avroSchema}); err != nil {
		t.Fatal(err)
	}
	const closed = "http://127.0.0.1:1"
	other := httptest.NewServer(http.NotFoundHandler()) // no registry
	defer other.Close()
	for _, c := range []struct {
		url, password, topic string
		verdict              inspect.Verdict // empty for no check
		mend                 string
	}{
		{"", "", "bills", "", ""},
		{registry.URL(), "p", "bills", inspect.OK, ""},
		{registry.URL(), "p", "outbox.event.${routedByValue}", inspect.OK, ""},
		{registry.URL(), "p", "orders", inspect.Warn, "subject orders-value"},
		{registry.URL(), "wrong", "bills", inspect.Fail, "password"},
		{registry.URL(), "wrong", "outbox.event.${routedByValue}", inspect.Fail, "password"},
		{closed, "p", "bills", inspect.Fail, "the registry itself"},
		{other.URL, "p", "bills", inspect.Fail, "url"},
		{other.URL, "p", "outbox.event.${routedByValue}", inspect.Fail, "url"},
	} {
		var cfg config.Config
		cfg.Outbox.Topic = c.topic
		cfg.Kafka.SchemaRegistry.URL, cfg.Kafka.SchemaRegistry.Username, cfg.Kafka.SchemaRegistry.Password = c.url, "u", config.Secret(c.password)
		var got inspect.Check
		for _, check := range examineSchemas(t.Context(), cfg) {
			got = check
		}
		if got.Verdict != c.verdict || !strings.Contains(got.Mend, c.mend) || (got.Mend == "") != (c.mend == "") {
			t.Errorf("%s for %s: %+v, want %s", c.url, c.topic, got, c.verdict)
		}
	}
}
