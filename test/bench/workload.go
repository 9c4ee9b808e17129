package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// workload is a backlog.
type workload struct {
	Name   string `json:"name"`
	Events int    `json:"events"`
	Bytes  int    `json:"payload_bytes"`
	batch  int    // rows in a transaction; 0: all of them
	beside int    // rows of another table, among them
	topics int    // that the events go to, each with one partition; 0: one with 12
	first  bool   // only the first record counts
}

// until is how many records are waited for.
func (w workload) until() int {
	if w.first {
		return 1
	}
	return w.Events
}

// firstRecord is the name of the backlog that is over with its first record.
const firstRecord = "first record"

var workloads = []workload{
	{Name: firstRecord, Events: 10, Bytes: 300, batch: 1, first: true},
	{Name: "one-row transactions", Events: 500_000, Bytes: 300, batch: 1},
	{Name: "500-row transactions", Events: 1_000_000, Bytes: 300, batch: 500},
	{Name: "one transaction", Events: 1_000_000, Bytes: 300},
	{Name: "8 KB payloads", Events: 100_000, Bytes: 8000, batch: 1},
	{Name: "beside 2,000,000 unrelated rows", Events: 100_000, Bytes: 300, batch: 1, beside: 2_000_000},
}

// setup is for the servers of all contenders. The relay reads in the order of seq. A payload
// is an order with as many lines as fit, with names that repeat and values that do not.
const setup = `
	CREATE TABLE outbox (seq bigserial PRIMARY KEY, id uuid NOT NULL DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb);
	CREATE TABLE other (n int PRIMARY KEY, pad text);
	CREATE PUBLICATION walpost FOR TABLE outbox WITH (publish = 'insert');
	CREATE PROCEDURE fill(n int, batch int, bytes int, types int) LANGUAGE plpgsql AS $$
	DECLARE i int := 1;
	BEGIN
		WHILE i <= n LOOP
			INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
			SELECT CASE types WHEN 0 THEN 'order' ELSE (k % types)::text END, 'order-' || k % 1000, 'created', format(
				'{"n": %s, "orderId": "%s", "customerId": %s, "currency": "EUR", "lines": [%s]}', k, gen_random_uuid(), 100000 + (random() * 900000)::int,
				(SELECT string_agg(format('{"sku": "SKU-%s", "quantity": %s, "unitPrice": %s}', 100000 + (random() * 900000)::int, 1 + (random() * 8)::int, 100 + (random() * 899)::int), ', ')
					FROM generate_series(1, (bytes - 125) / 55) WHERE k > 0))::jsonb
			FROM generate_series(i, least(i + batch - 1, n)) k;
			COMMIT;
			i := i + batch;
		END LOOP;
	END $$`

func (b *bench) selectedWorkloads() []workload {
	var all []workload
	for _, w := range workloads {
		if selected(b.workloads, w.Name) {
			all = append(all, w.scaled(b.scale))
		}
	}
	return all
}

// scaled is the backlog with so many times its events.
func (w workload) scaled(by float64) workload {
	if !w.first {
		w.Events, w.beside = max(100, int(float64(w.Events)*by)), int(float64(w.beside)*by)
	}
	if w.batch == 0 {
		w.batch = w.Events
	}
	return w
}

// fill empties the outbox and writes the backlog.
func (w workload) fill(ctx context.Context, conn *pgx.Conn) error {
	const parts = 20 // what is beside comes in so many
	if _, err := conn.Exec(ctx, "TRUNCATE outbox, other"); err != nil {
		return err
	}
	if w.beside == 0 {
		_, err := conn.Exec(ctx, fmt.Sprintf("CALL fill(%d, %d, %d, %d)", w.Events, w.batch, w.Bytes, w.topics))
		return err
	}
	for i := range parts {
		first, last := i*w.beside/parts, (i+1)*w.beside/parts-1
		if _, err := conn.Exec(ctx, "INSERT INTO other SELECT n, repeat('x', 50) FROM generate_series($1::int, $2::int) n", first, last); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, fmt.Sprintf("CALL fill(%d, %d, %d, %d)", (i+1)*w.Events/parts-i*w.Events/parts, w.batch, w.Bytes, w.topics)); err != nil {
			return err
		}
	}
	return nil
}
