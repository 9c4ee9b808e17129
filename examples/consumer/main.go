// Command consumer adds up what each customer has ordered. Events may be
// delivered more than once, and an addition must not be repeated: the inbox
// keeps the events' ids in the same transaction as the sums.
//
//	go run ./examples/consumer -dsn postgres://localhost/billing -brokers localhost:9092
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/outbox"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		log.Fatal("consumer: ", err)
	}
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("consumer", flag.ExitOnError)
	dsn := flags.String("dsn", os.Getenv("DATABASE_URL"), "Postgres of this service; the default is $DATABASE_URL, or else libpq's variables")
	brokers := flags.String("brokers", os.Getenv("KAFKA_BROKERS"), "Kafka brokers with commas between them; the default is $KAFKA_BROKERS")
	topic := flags.String("topic", "outbox.event.order", "topic")
	group := flags.String("group", "billing", "consumer group")
	if err := flags.Parse(args); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, *dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, outbox.InboxSQL+createSums); err != nil {
		return fmt.Errorf("create tables: %w", err)
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*brokers, ",")...),
		kgo.ConsumerGroup(*group),
		kgo.ConsumeTopics(*topic),
		kgo.DisableAutoCommit(), // the offset follows the effect
		kgo.BlockRebalanceOnPoll(),
	)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	b := billing{conn, outbox.Inbox{Consumer: *group}, stdout}
	return b.consume(ctx, client)
}

const createSums = `CREATE TABLE IF NOT EXISTS sums (
  customer text   PRIMARY KEY,
  orders   bigint NOT NULL,
  amount   bigint NOT NULL
)`

type billing struct {
	conn   *pgx.Conn
	inbox  outbox.Inbox
	stdout io.Writer
}

const (
	batchSize    = 100
	batchTimeout = 30 * time.Second
)

// consume handles records until ctx is done.
func (b billing) consume(ctx context.Context, client *kgo.Client) error {
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, batchSize)
		if err := fetches.Err(); err != nil && ctx.Err() == nil {
			return err
		}
		if err := b.batch(ctx, client, fetches.Records()); err != nil {
			return err
		}
		client.AllowRebalance()
	}
	return nil
}

// batch finishes what it began, also when ctx is done. It commits offsets only
// after the records' effects are in the database: a crash between the two
// brings the records again, and the inbox recognizes them.
func (b billing) batch(ctx context.Context, client *kgo.Client, records []*kgo.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), batchTimeout)
	defer cancel()
	for _, record := range records {
		if err := b.handle(ctx, record); err != nil {
			return fmt.Errorf("handle offset %d of partition %d: %w", record.Offset, record.Partition, err)
		}
	}
	if err := client.CommitRecords(ctx, records...); err != nil {
		return fmt.Errorf("commit offsets: %w", err)
	}
	return nil
}

// handle has its effect once, however often it is called with an event.
func (b billing) handle(ctx context.Context, record *kgo.Record) error {
	id, err := eventID(record)
	if err != nil {
		return err
	}
	var order struct {
		ID       int64
		Customer string
		Amount   int64
	}
	if err := json.Unmarshal(record.Value, &order); err != nil {
		return err
	}
	result := "was added before"
	err = pgx.BeginFunc(ctx, b.conn, func(tx pgx.Tx) error {
		return b.inbox.Once(ctx, tx, id, func(ctx context.Context) error {
			result = "added"
			_, err := tx.Exec(ctx, addOrder, order.Customer, order.Amount)
			return err
		})
	})
	if err == nil {
		fmt.Fprintf(b.stdout, "order %d %s\n", order.ID, result)
	}
	return err
}

const addOrder = `INSERT INTO sums AS s (customer, orders, amount) VALUES ($1, 1, $2)
ON CONFLICT (customer) DO UPDATE SET orders = s.orders + 1, amount = s.amount + excluded.amount`

func eventID(record *kgo.Record) (uuid.UUID, error) {
	for _, h := range record.Headers {
		if h.Key == outbox.HeaderID {
			return uuid.ParseBytes(h.Value)
		}
	}
	return uuid.Nil, errors.New("the record has no header " + outbox.HeaderID)
}
