// Package bench measures walpost on a user's own servers: it loads a table, has a
// process of walpost publish what is in it and then a steady stream, and reads all of
// it back. What it makes on the servers has names of its own and is removed.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Config holds a bench's settings. Those without a default are required.
type Config struct {
	// Events is how many events are written before walpost starts, Bytes how long the
	// payload of each is, and Batch how many are in a transaction.
	Events, Bytes, Batch int

	// Rate is how many events a second are written afterwards, for Duration. Zero
	// leaves that out.
	Rate     int
	Duration time.Duration

	// Patience is how long nothing may happen before the bench gives up. Defaults to
	// 60s.
	Patience time.Duration

	// Connect opens a session with the database. A statement whose context ends must be
	// cancelled on the server before it returns.
	Connect func(context.Context) (*pgx.Conn, error)

	// Kafka says how brokers are reached.
	Kafka []kgo.Opt

	// Partitions and ReplicationFactor are those of the topic. Zero leaves them to the
	// broker.
	Partitions, ReplicationFactor int

	// ExactlyOnce says that the process keeps its position in a topic.
	ExactlyOnce bool

	// Walpost returns a command that streams between what has these names until its
	// context ends, and then ends in good order.
	Walpost func(context.Context, Names) (*exec.Cmd, error)

	// Hint tells a person what to do about something that does not stop the bench.
	Hint func(string)

	// Out takes what is said on the way. On a terminal there is a progress bar.
	Out io.Writer
}

const (
	// MinBytes is the shortest payload there can be: it holds the event's number.
	MinBytes = 64

	// MaxBytes bounds Bytes. Topics take less, unless they are told to.
	MaxBytes = 64 << 20
)

func (c Config) withDefaults() Config {
	c.Patience = cmp.Or(c.Patience, 60*time.Second)
	return c
}

// Validate returns all problems with what is measured, by the names of the flags.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Events >= 1, "--events %d: want at least 1", c.Events)
	check(c.Bytes >= MinBytes && c.Bytes <= MaxBytes, "--bytes %d: want %d to %d", c.Bytes, MinBytes, MaxBytes)
	check(c.Batch >= 1, "--batch %d: want at least 1", c.Batch)
	check(c.Rate >= 0, "--rate %d: want 0 or more", c.Rate)
	check(c.Rate == 0 || c.Duration >= time.Second, "--duration %s: want at least 1s", c.Duration)
	return errors.Join(errs...)
}

// bench is one run.
type bench struct {
	cfg   Config
	names Names
	lock  *pgx.Conn // a session that shows others that the run is not over
	kafka *kgo.Client
	made  []object // to be removed

	noCheckpoints bool // there was no checkpoint table: if there is one, walpost has made it for us

	reader *reader
	sum    Summary
}

// Run measures. What was reached is in the summary, also if there is an error. It
// returns when all that it made is removed, for which it takes a minute at the most
// after ctx is done; the error names what is left, and how to remove it.
func Run(ctx context.Context, cfg Config) (sum Summary, err error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return Summary{}, err
	}
	b := &bench{cfg: cfg}
	if err := b.open(ctx); err != nil {
		return Summary{}, orInterrupted(ctx, err)
	}
	defer b.close()
	defer func() { err = errors.Join(err, b.removeAll(ctx)) }()
	if err := b.prepare(ctx); err != nil {
		return Summary{}, orInterrupted(ctx, err)
	}
	b.sum.Bytes, b.sum.Batch, b.sum.Kafka = cfg.Bytes, cfg.Batch, b.kafkaVersion(ctx)
	b.sum.Postgres = b.lock.PgConn().ParameterStatus("server_version")
	err = b.measure(ctx)
	b.sum.count(b.reader)
	return b.sum, orInterrupted(ctx, err)
}

// measure goes through the phases.
func (b *bench) measure(ctx context.Context) error {
	var err error
	if b.reader, err = b.newReader(); err != nil {
		return err
	}
	defer b.reader.close()
	if err := b.load(ctx); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if err := b.backlog(ctx); err != nil {
		return fmt.Errorf("backlog: %w", err)
	}
	if b.cfg.Rate > 0 {
		if err := b.steady(ctx); err != nil {
			return fmt.Errorf("steady: %w", err)
		}
	}
	return b.reader.rest(ctx)
}

// open finds the servers, and names for the run.
func (b *bench) open(ctx context.Context) (err error) {
	if b.kafka, err = b.cfg.dial(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.lock, err = b.cfg.Connect(ctx); err != nil {
		return err
	}
	family, err := familyOf(ctx, b.lock)
	if err != nil {
		return err
	}
	left, err := abandoned(ctx, b.lock, b.kafka, family)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		b.cfg.Hint(fmt.Sprintf("an earlier bench was killed and has left %s: walpost bench --clean removes it", list(left)))
	}
	b.names = family.member()
	_, err = own(ctx, b.lock, string(b.names))
	return err
}

func (b *bench) close() {
	b.kafka.Close()
	if b.lock != nil {
		hangUp(b.lock)
	}
}

func (b *bench) say(format string, args ...any) { _, _ = fmt.Fprintf(b.cfg.Out, format+"\n", args...) }

// because returns why ctx is done, if that is why err came.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// errInterrupted is what Run ends with when its context is done; what came of that is no news.
var errInterrupted = errors.New("interrupted")

func orInterrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errInterrupted
	}
	return err
}
