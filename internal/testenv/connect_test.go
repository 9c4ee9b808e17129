package testenv

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Debezium's outbox router in a worker of this package publishes an event.
func TestConnect(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	pg, err := StartPostgres(ctx, PostgresConfig{})
	need(t, err)
	defer pg.Close() //nolint:errcheck // the test is over
	kafka := ownKafka(t, KafkaConfig{Source: Programs, Properties: map[string]string{"auto.create.topics.enable": "true"}})
	conn, err := pgx.Connect(ctx, pg.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // the test is over
	const setup = `CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text, aggregateid text, type text, payload jsonb);
		CREATE PUBLICATION p FOR TABLE outbox`
	if _, err := conn.Exec(ctx, setup); err != nil {
		t.Fatal(err)
	}
	s, err := StartConnect(ctx, ConnectConfig{Brokers: kafka.Addrs(), Heap: "256m", Connector: DebeziumOutbox(conn.Config(), map[string]string{
		"publication.name": "p", "slot.name": "debezium",
	})})
	need(t, err)
	defer s.Close() //nolint:errcheck // the test is over
	if err := s.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', 'o-1', 'created', '{"n": 1}')`); err != nil {
		t.Fatal(err)
	}
	if got := consume(t, kafka.Addrs(), "outbox.event.order"); got != `{"n": 1}` {
		t.Errorf("published %q", got)
	}
	if cpu, err := s.Stop(ctx); err != nil || cpu == 0 {
		t.Errorf("Stop() = %v, %v", cpu, err)
	}
}
