package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/pkg/outbox"
)

const ordersTable = `CREATE TABLE orders (id text PRIMARY KEY, version bigint NOT NULL, total_cents bigint NOT NULL)`

const (
	writers         = 4   // sessions of the order service
	ordersPerWriter = 100 // each writer has orders of its own
	priceCents      = 995 // a change adds one item of this price
)

// orderChanged is the payload of the service's events.
type orderChanged struct {
	Order   string    `json:"order"`
	Version int64     `json:"version"` // rises by one with each event of an order
	Cents   int64     `json:"total_cents"`
	At      time.Time `json:"at"`
}

// writeOrders writes n events, each in one transaction with the business row
// that it tells of.
func writeOrders(ctx context.Context, dsn string, n int) error {
	g, gctx := errgroup.WithContext(ctx)
	for w := range writers {
		share := n / writers
		if w < n%writers {
			share++
		}
		g.Go(func() error { return writeShare(gctx, dsn, w, share) })
	}
	return g.Wait()
}

func writeShare(ctx context.Context, dsn string, writer, n int) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("order service: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for i := range n {
		order := fmt.Sprintf("order-%d-%d", writer, i%ordersPerWriter)
		if err := changeOrder(ctx, conn, order, int64(i/ordersPerWriter+1)); err != nil {
			return fmt.Errorf("order service: %w", err)
		}
	}
	return nil
}

// changeOrder is a service's whole use of the outbox.
func changeOrder(ctx context.Context, conn *pgx.Conn, order string, version int64) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		const upsert = `
			INSERT INTO orders (id, version, total_cents) VALUES ($1, $2, $3)
			ON CONFLICT (id) DO UPDATE SET version = $2, total_cents = $3`
		if _, err := tx.Exec(ctx, upsert, order, version, version*priceCents); err != nil {
			return err
		}
		payload, err := json.Marshal(orderChanged{order, version, version * priceCents, time.Now()})
		if err != nil {
			return err
		}
		var w outbox.Writer
		_, err = w.Write(ctx, tx, outbox.Message{
			Route: "order", Key: order, Type: "OrderChanged", Payload: payload,
		})
		return err
	})
}
