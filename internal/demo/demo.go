// Package demo is the main job with nothing installed: a Postgres of its own, a
// Kafka inside the process, an order service that writes, walpost between the
// two, and a consumer that reads and counts.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/testenv"
)

// Config holds a demo's settings. All but Serve and Page are required.
type Config struct {
	// Events is how many events the order service writes.
	Events int

	// Serve keeps everything running, after the summary, until the context
	// is done.
	Serve bool

	// Page is the address of the status page, which is told to who is served.
	Page string

	// Stream runs walpost from the given database to the given brokers until
	// ctx is done.
	Stream func(ctx context.Context, dsn string, brokers []string) error

	// Init creates walpost's objects in the database.
	Init func(ctx context.Context, dsn string) error

	// Out takes what the demo tells a person.
	Out io.Writer

	Logger *slog.Logger
}

// Summary is what the demo found.
type Summary struct {
	Written    int           `json:"written"`
	Received   int           `json:"received"` // distinct events
	Lost       int           `json:"lost"`
	Duplicated int           `json:"duplicated"`
	OutOfOrder int           `json:"out_of_order"`
	Changed    int           `json:"changed"`
	Median     time.Duration `json:"median_latency_ns"` // commit to consumer
	P99        time.Duration `json:"p99_latency_ns"`
	Took       time.Duration `json:"took_ns"` // first write to last record
	Postgres   string        `json:"postgres"`
}

// OK reports whether the figures add up.
func (s Summary) OK() bool {
	return s.Written > 0 && s.Received == s.Written && s.Lost+s.Duplicated+s.OutOfOrder+s.Changed == 0
}

// topic is where the order service's events arrive: the default topic of their
// aggregate type.
const topic = "outbox.event.order"

// errDone ends what runs beside the consumer.
var errDone = errors.New("demo is over")

// Run runs the demo to its end. The summary is whole even if it does not add up.
func Run(ctx context.Context, cfg Config) (Summary, error) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(cfg.Out, format+"\n", args...) }
	say("starting Postgres (the first time it is downloaded) ...")
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{})
	if err != nil {
		return Summary{}, err
	}
	defer func() { _ = pg.Close() }() // it and its data were only for this
	say("starting an in-process Kafka ...")
	broker, err := testenv.StartFakeKafka()
	if err != nil {
		return Summary{}, err
	}
	defer broker.Close()
	if err := prepare(ctx, pg.DSN(), cfg); err != nil {
		return Summary{}, err
	}
	say("Postgres %s at %s, Kafka at %s", pg.Version, pg.DSN(), broker.ListenAddrs()[0])
	sum, err := play(ctx, cfg, pg.DSN(), broker.ListenAddrs())
	sum.Postgres = pg.Version
	return sum, err
}

// prepare creates the order service's table and walpost's objects.
func prepare(ctx context.Context, dsn string, cfg Config) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, ordersTable); err != nil {
		return fmt.Errorf("create table of orders: %w", err)
	}
	return cfg.Init(ctx, dsn)
}

// play runs walpost, the order service and the consumer side by side.
func play(ctx context.Context, cfg Config, dsn string, brokers []string) (Summary, error) {
	var sum Summary
	run, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g, gctx := errgroup.WithContext(run)
	begun := time.Now()
	g.Go(func() error { return cfg.Stream(gctx, dsn, brokers) })
	g.Go(func() error { return writeOrders(gctx, dsn, cfg.Events) })
	g.Go(func() error {
		seen, err := consume(gctx, cfg, brokers)
		sum = seen.summary(cfg.Events)
		sum.Took = time.Since(begun)
		if err == nil && !cfg.Serve {
			cancel(errDone)
		}
		if err == nil && cfg.Serve {
			sum.Print(cfg.Out)
			_, _ = fmt.Fprintf(cfg.Out, "serving: write to public.outbox of %s and see at %s; stop with Ctrl-C\n", dsn, cfg.Page)
		}
		return err
	})
	err := g.Wait()
	if errors.Is(err, errDone) || ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = nil
	}
	return sum, err
}

// Print writes the closing summary.
func (s Summary) Print(w io.Writer) {
	verdict := "everything adds up"
	if !s.OK() {
		verdict = "SOMETHING IS WRONG"
	}
	_, _ = fmt.Fprintf(w, `
written       %d
received      %d
lost          %d
duplicated    %d
out of order  %d
changed       %d
latency       p50 %s, p99 %s (commit to consumer, under this load)
took          %s
%s
`, s.Written, s.Received, s.Lost, s.Duplicated, s.OutOfOrder, s.Changed,
		s.Median.Round(10*time.Microsecond), s.P99.Round(10*time.Microsecond), s.Took.Round(time.Millisecond), verdict)
}
