package crash

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

// newClient returns a client of the broker itself, past the proxy. It comes back
// quickly after a restart.
func newClient(t testing.TB, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(brokers...), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.MetadataMinAge(50 * time.Millisecond), kgo.MetadataMaxAge(2 * time.Second), kgo.DialTimeout(time.Second),
		kgo.RequestTimeoutOverhead(time.Second),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// read enters all records of the topics in the ledger until ctx is done.
func read(ctx context.Context, cl *kgo.Client, l *ledger) {
	for {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachRecord(l.record) // errors pass: the broker is killed and comes back
	}
}

// sample is a moment at which a higher position than before was saved or
// confirmed.
type sample struct {
	lsn  cdc.LSN // all that was committed before must be in Kafka
	ends []int64 // of all topics' partitions a moment later
}

// sampler reads the checkpoint and the slot, and after them the ends of the
// topics.
type sampler struct {
	slot    string
	ledger  *ledger
	admin   *kadm.Client
	samples []sample // lsn and ends rise
	looks   int

	mu   sync.Mutex
	last checkpoint // guarded by mu
}

// checkpoint is what the database says about a slot.
type checkpoint struct {
	epoch     int64
	saved     cdc.LSN // 0 if nothing is
	partial   int64   // rows that are published of the next transaction
	confirmed cdc.LSN
}

// readCheckpoint reads the slot first: what it has confirmed must be saved by then.
func readCheckpoint(ctx context.Context, conn *pgx.Conn, slot string) (checkpoint, error) {
	var c checkpoint
	var saved, confirmed string
	err := conn.QueryRow(ctx, "SELECT coalesce(confirmed_flush_lsn, '0/0')::text FROM pg_replication_slots WHERE slot_name = $1", slot).Scan(&confirmed)
	if err == nil {
		err = conn.QueryRow(ctx, "SELECT epoch, coalesce(lsn, '0/0')::text, coalesce(partial_rows, 0) FROM walpost.checkpoint WHERE slot = $1", slot).
			Scan(&c.epoch, &saved, &c.partial)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return c, nil // before the first start
	}
	if err != nil {
		return c, err
	}
	var errSaved, errConfirmed error
	c.saved, errSaved = cdc.ParseLSN(saved)
	c.confirmed, errConfirmed = cdc.ParseLSN(confirmed)
	return c, errors.Join(errSaved, errConfirmed)
}

// sampleInterval is the time between two looks.
const sampleInterval = 50 * time.Millisecond

// run samples until ctx is done.
func (s *sampler) run(ctx context.Context, dsn string) {
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	var conn *pgx.Conn
	for {
		if conn == nil || conn.IsClosed() {
			conn, _ = connect(ctx, dsn)
		}
		if conn != nil {
			_ = s.look(ctx, conn)
		}
		select {
		case <-ticker.C: // if anything failed, a server was away
		case <-ctx.Done():
			if conn != nil {
				_ = conn.Close(context.WithoutCancel(ctx))
			}
			return
		}
	}
}

func (s *sampler) look(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := readCheckpoint(ctx, conn, s.slot)
	if err != nil {
		return err
	}
	s.looks++
	s.mu.Lock()
	s.last = c
	s.mu.Unlock()
	if c.saved != 0 && c.confirmed > c.saved {
		s.ledger.mu.Lock()
		s.ledger.fault(ahead, time.Now().UnixMilli(), "confirmed %s, saved %s", c.confirmed, c.saved)
		s.ledger.mu.Unlock()
	}
	lsn := max(c.saved, c.confirmed)
	if n := len(s.samples); n > 0 && s.samples[n-1].lsn >= lsn {
		return nil
	}
	ends, err := s.admin.ListEndOffsets(ctx, s.ledger.topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	sm := sample{lsn: lsn}
	for _, topic := range s.ledger.topics {
		for p := range s.ledger.partitions {
			end, _ := ends.Lookup(topic, p)
			sm.ends = append(sm.ends, end.Offset)
		}
	}
	s.samples = append(s.samples, sm)
	return nil
}

// connect opens a session that is not counted among walpost's.
func connect(ctx context.Context, dsn string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	cfg.ConnectTimeout = 5 * time.Second
	cfg.RuntimeParams["application_name"] = harnessName
	return pgx.ConnectConfig(ctx, cfg)
}

const harnessName = "harness"

const codeDeadlock = "40P01"

// execute runs statements, each in a transaction of its own, on a connection of
// their own. One that the writer's locks are in the way of is tried again.
func execute(ctx context.Context, dsn string, statements ...string) error {
	conn, err := connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, sql := range statements {
		var pgErr *pgconn.PgError
		_, err := conn.Exec(ctx, sql)
		for errors.As(err, &pgErr) && pgErr.Code == codeDeadlock {
			_, err = conn.Exec(ctx, sql)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func newConsumer(t testing.TB, brokers, topics []string) *kgo.Client {
	t.Helper()
	return newClient(t, brokers, kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(100*time.Millisecond), kgo.FetchMaxBytes(8<<20))
}
