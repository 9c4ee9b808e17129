// Command producer is an order service. It stores each order and the event that
// tells of it in one transaction, so that there is never one without the other.
//
//	go run ./examples/producer -dsn postgres://localhost/shop -orders 10
//
// The outbox table has to be there: run walpost init, or psql -f
// sql/001_outbox.sql.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/pkg/outbox"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		log.Fatal("producer: ", err)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("producer", flag.ExitOnError)
	dsn := flags.String("dsn", os.Getenv("DATABASE_URL"), "Postgres; the default is $DATABASE_URL, or else libpq's variables")
	orders := flags.Int("orders", 10, "how many orders to place")
	every := flags.Duration("every", 0, "time between two orders")
	if err := flags.Parse(args); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, *dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, createOrders); err != nil {
		return fmt.Errorf("create table orders: %w", err)
	}
	for n := range *orders {
		o := order{Customer: "customer-" + strconv.Itoa(n%3), Amount: int64(n+1) * 100}
		if err := place(ctx, conn, &o); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "order %d placed\n", o.ID)
		if !wait(ctx, *every) {
			break // asked to stop
		}
	}
	return nil
}

const createOrders = `CREATE TABLE IF NOT EXISTS orders (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer text   NOT NULL,
  amount   bigint NOT NULL
)`

type order struct {
	ID       int64  `json:"id"`
	Customer string `json:"customer"`
	Amount   int64  `json:"amount"` // in cents
}

// place stores the order and its event. Both are there once the transaction
// commits, and neither before: there is no moment at which the service could
// die between the two.
func place(ctx context.Context, conn *pgx.Conn, o *order) error {
	var events outbox.Writer
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		const insert = "INSERT INTO orders (customer, amount) VALUES ($1, $2) RETURNING id"
		if err := tx.QueryRow(ctx, insert, o.Customer, o.Amount).Scan(&o.ID); err != nil {
			return fmt.Errorf("insert order: %w", err)
		}
		payload, err := json.Marshal(o)
		if err != nil {
			return err
		}
		_, err = events.Write(ctx, tx, outbox.Message{
			Route:   "order", // the topic is outbox.event.order
			Key:     strconv.FormatInt(o.ID, 10),
			Type:    "OrderPlaced",
			Payload: payload,
		})
		return err
	})
}

// wait reports whether it has waited, and not ended with ctx.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
