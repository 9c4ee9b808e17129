package crash

import (
	"context"
	"errors"
	"fmt"
	"sort"
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

// read hands all records to enter until ctx is done.
func read(ctx context.Context, cl *kgo.Client, enter func(*kgo.Record)) {
	for {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachRecord(enter) // errors pass: the broker is killed and comes back
	}
}

// sample is a moment at which a higher position than before was saved or
// confirmed.
type sample struct {
	at   int64   // Unix ms
	lsn  cdc.LSN // all that was committed before must be in Kafka
	ends []int64 // of all partitions of the sampler's topics a moment later
}

// samples are in the order of time.
type samples []sample

// early implements [saves].
func (s samples) early(ev *event) (cdc.LSN, bool) {
	n := sort.Search(len(s), func(i int) bool { return s[i].lsn >= ev.tx.after })
	if n == len(s) || ev.offset < s[n].ends[ev.partition] {
		return 0, false
	}
	return s[n].lsn, true
}

// sampler reads the checkpoint, if the database has it, and the slot, and after
// them the ends of topics: those of the events, or the one that has the checkpoint.
type sampler struct {
	slot       string
	exact      bool // the checkpoint is in Kafka
	ledger     *ledger
	admin      *kadm.Client
	topics     []string
	partitions int32    // of each topic
	samples    []sample // lsn and ends rise
	looks      int
}

// checkpoint is what is known about a slot.
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
	if s.exact {
		c.saved = 0 // what the row says is of no concern
	}
	if c.saved != 0 && c.confirmed > c.saved {
		s.ledger.mu.Lock()
		s.ledger.fault(ahead, time.Now().UnixMilli(), "confirmed %s, saved %s", c.confirmed, c.saved)
		s.ledger.mu.Unlock()
	}
	lsn := max(c.saved, c.confirmed)
	if n := len(s.samples); n > 0 && s.samples[n-1].lsn >= lsn {
		return nil
	}
	ends, err := s.admin.ListEndOffsets(ctx, s.topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return err
	}
	sm := sample{at: time.Now().UnixMilli(), lsn: lsn}
	for _, topic := range s.topics {
		for p := range s.partitions {
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

// newConsumer reads the markers of transactions too, and with committed only what
// these commit.
func newConsumer(t testing.TB, brokers []string, committed bool, topics ...string) *kgo.Client {
	t.Helper()
	opts := []kgo.Opt{
		kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords(),
		kgo.FetchMaxWait(100 * time.Millisecond), kgo.FetchMaxBytes(8 << 20),
	}
	if committed {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	return newClient(t, brokers, opts...)
}
