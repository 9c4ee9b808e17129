package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// stage is one block's servers, its walposts and what watches them. It belongs to
// the test's goroutine.
type stage struct {
	mode
	*shard // the one of all that is picked
	all    []*shard

	t    testing.TB
	seed uint64
	n    int // number of the block
	rng  *rand.Rand

	pg *testenv.PostgresServer

	kafka     *testenv.KafkaServer // nil for the in-process broker
	kafkaLink *harness.Link        // nil for the in-process broker
	fake      *kfake.Cluster       // nil for a real broker
	brokers   []string             // past the link

	dsn    string // past the link, of a superuser
	spill  string // folder
	tmpfs  bool   // spill is a small file system of its own
	rooted bool   // the publication publishes partitions as their root
	lanes  int    // partitions of outbox_parts made so far
	clock  *clock // of all instances
	binary string
	env    []string

	ledger *ledger
	writer *writer
	probe  *session

	instances []*instance // of all shards
	pullEnds  []*pullEnd  // also those that missed their step
	problems  []string
	over      time.Time // when the last fault ended
	stuck     bool      // walpost did not recover
}

const (
	topicPartitions = 6

	// senderTimeout is short, so that dead connections are noticed within a
	// test's time. It also bounds how long a frozen instance keeps the slot.
	senderTimeout = 3 * time.Second

	// drainTimeout is walpost's delivery.drain_timeout.
	drainTimeout = time.Second

	slotName = "walpost"
)

// setupSQL makes two outboxes of one shape, one of them partitioned, a table that
// is published and no outbox, one that is neither, and one with a row for each
// transaction of the writer.
const setupSQL = `
	CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text, type text NOT NULL,
		payload text, seq bigint NOT NULL, lane int, at timestamptz NOT NULL DEFAULT clock_timestamp());
	CREATE TABLE outbox_parts (id uuid, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL,
		payload text, seq bigint NOT NULL, lane int, at timestamptz NOT NULL DEFAULT clock_timestamp()) PARTITION BY LIST (lane);
	CREATE TABLE outbox_parts_0 PARTITION OF outbox_parts FOR VALUES IN (0);
	CREATE TABLE other (id uuid, aggregatetype text, aggregateid text, type text, payload text, seq bigint);
	CREATE TABLE busy (n bigint, note text);
	CREATE TABLE written (name text PRIMARY KEY)`

// publicationSQL publishes more than walpost needs.
const publicationSQL = `CREATE PUBLICATION walpost FOR TABLE outbox, outbox_parts, other WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = %t)`

// newStage starts a block's servers. Its table's shape comes from the seed.
func newStage(t testing.TB, seed uint64, n int, m mode) *stage {
	t.Helper()
	s := &stage{mode: m, t: t, seed: seed, n: n, spill: t.TempDir()}
	s.rng = s.random(0)
	s.rooted = s.rng.IntN(2) == 0 || m.shards > 1 // a root's row filter does not hold for what is published by itself
	s.pg = envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{
		"wal_sender_timeout": senderTimeout.String(), "logical_decoding_work_mem": "64kB", "synchronous_commit": "on",
		"max_wal_size": "4GB", "log_min_messages": "fatal",
	}})
	s.dsn = s.pg.DSN()
	if s.real {
		s.startKafka()
	} else {
		s.fake = envtest.FakeKafka(t, kfake.NumBrokers(3))
		s.brokers = s.fake.ListenAddrs()
	}
	if path, ok := mountSmall(t); ok {
		s.spill, s.tmpfs = path, true
	}
	s.ledger = newLedger([]string{"crash-0", "crash-1"}, topicPartitions)
	s.ledger.committed = s.exact
	s.newShards()
	s.createTopics()
	s.build()
	s.configure()
	s.initialize()
	return s
}

// build builds walpost with a clock that can be moved.
func (s *stage) build() {
	flag, err := clockOverlay(binDir)
	if err == nil {
		s.binary, err = harness.Binary(binDir, flag)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.clock = newClock(s.t)
}

// roleName is whom walpost runs as: the role that its init makes, with no more
// rights than it needs.
const roleName, rolePassword = "relay", "x"

// initialize makes the tables, and has walpost make the rest: the publications too if
// there are shards.
func (s *stage) initialize() {
	before, after := []string{setupSQL, fmt.Sprintf(publicationSQL, s.rooted)}, []string{"ALTER ROLE " + roleName + " PASSWORD '" + rolePassword + "'"}
	args := []string{"init", "--no-table", "--role", roleName}
	if s.shards > 1 {
		before, after = before[:1], append(after, s.published("ADD TABLE other")...)
		args = append(args, "--shards", strconv.Itoa(s.shards))
	}
	if err := errors.Join(os.MkdirAll(s.spillDir(), 0o700), s.sql(before...)); err != nil {
		s.t.Fatal(err)
	}
	init := harness.Start(s.t, s.binary, append([]string{"WALPOST_POSTGRES_DSN=" + s.dsn}, s.env...), args...)
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	if code, err := init.Wait(ctx); err != nil || code != 0 {
		s.t.Fatalf("walpost init: exit %d, %v\n%s", code, err, init.Log())
	}
	if err := s.sql(after...); err != nil {
		s.t.Fatal(err)
	}
}

// startKafka starts a broker with a second listener that leads clients through the
// link.
func (s *stage) startKafka() {
	const listener = "LINKED"
	s.kafkaLink = harness.NewLink(s.t, "kafka")
	s.kafka = envtest.NewKafka(s.t, testenv.KafkaConfig{
		Listeners: map[string]string{listener: "PLAINTEXT"}, Advertised: map[string]string{listener: s.kafkaLink.Addr()},
	})
	s.brokers = s.kafka.Addrs()
	s.kafkaLink.To(s.t, s.kafka.ListenerAddrs(listener)[0])
}

func (s *stage) createTopics() {
	admin := kadm.NewClient(newClient(s.t, s.brokers))
	appendTime, replicas := "LogAppendTime", int16(1)
	if s.fake != nil {
		replicas = 3
	}
	res, err := admin.CreateTopics(s.t.Context(), topicPartitions, replicas, map[string]*string{"message.timestamp.type": &appendTime}, s.ledger.topics...)
	if err == nil {
		err = res.Error()
	}
	if err == nil && s.real {
		err = s.createDeadLetterTopics(admin)
	}
	if err == nil && !s.exact { // no fault must make this server look like a copy
		compact := "compact"
		_, err = admin.CreateTopic(s.t.Context(), 1, replicas, map[string]*string{"cleanup.policy": &compact}, progressTopic)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// configure sets what all instances have in common.
func (s *stage) configure() {
	brokers := s.brokers
	if s.kafkaLink != nil {
		brokers = []string{s.kafkaLink.Addr()}
	}
	s.env = []string{
		"WALPOST_POSTGRES_SLOT=" + slotName,
		"WALPOST_OUTBOX_TABLE=public.outbox,public.outbox_parts", "WALPOST_OUTBOX_TOPIC=crash-${routedByValue}",
		"WALPOST_OUTBOX_PLACE=type:header:eventType", "WALPOST_OUTBOX_POSITION_HEADERS=true",
		"WALPOST_KAFKA_BROKERS=" + strings.Join(brokers, ","),
		"WALPOST_CHECKPOINT_TOPIC=" + progressTopic, "WALPOST_DELIVERY_SPILL_DIR=" + s.spillDir(), "WALPOST_DELIVERY_DRAIN_TIMEOUT=" + drainTimeout.String(),
		clockVariable + "=" + s.clock.file.Name(),
	}
	if s.real {
		s.env = append(s.env, "WALPOST_DELIVERY_POISON=dead-letter")
	}
	if s.exact {
		s.env = append(s.env, "WALPOST_DELIVERY_GUARANTEE="+exactlyOnce)
	}
}

func (s *stage) spillDir() string { return filepath.Join(s.spill, "dir") }

func (s *stage) pgURL() *url.URL {
	u, err := url.Parse(s.dsn)
	if err != nil {
		s.t.Fatal("the server's DSN is not a URL")
	}
	return u
}

// random returns a source that depends on the seed, the block and n alone.
func (s *stage) random(n uint64) *rand.Rand {
	return rand.New(rand.NewPCG(s.seed, uint64(s.n)<<32|n))
}

// The streams of random numbers of a block.
const (
	writerStream = 1 << 8
	faultStream  = 1 << 16
)

// begin starts each walpost, the writer, and those who look on. The function that it
// returns ends them and waits.
func (s *stage) begin() (end func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	s.writer = newWriter(s.dsn, s.ledger, s.shardsOf)
	s.probe = s.writer.session(0, s.random(writerStream-1))
	for shard := range s.all {
		if !slices.ContainsFunc(s.probe.keys, func(k *key) bool { return k.shard == shard }) {
			s.t.Fatalf("-shards %d: the writer has no key of shard %d", s.shards, shard)
		}
	}
	s.each(func() {
		s.sampler = s.newSampler()
		s.main = s.start()
	})
	s.each(func() { s.waitReady(s.main) })

	lookCtx, stopLooking := context.WithCancel(s.t.Context())
	var writing, looking sync.WaitGroup
	events := newConsumer(s.t, s.brokers, s.exact, s.ledger.topics...)
	looking.Go(func() { read(lookCtx, events, s.ledger.record) })
	if s.exact {
		positions := newConsumer(s.t, s.brokers, true, progressTopic)
		looking.Go(func() {
			read(lookCtx, positions, func(rec *kgo.Record) {
				for _, sh := range s.all {
					sh.progress.record(rec)
				}
			})
		})
	}
	for _, sh := range s.all {
		looking.Go(func() { sh.sampler.run(lookCtx, s.dsn) })
	}
	writing.Go(func() { s.writer.run(ctx, func(n uint64) *rand.Rand { return s.random(writerStream + n) }) })
	return func() {
		cancel()
		writing.Wait()
		s.finish()
		stopLooking()
		looking.Wait()
		s.probe.close()
	}
}

// sql runs statements on a connection of its own, past the link.
func (s *stage) sql(statements ...string) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	return execute(ctx, s.dsn, statements...)
}

// checkpoint returns what the shard has saved and confirmed now. Of exactly-once it may be what
// was saved a moment ago.
func (s *stage) checkpoint() (checkpoint, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := connect(ctx, s.dsn)
	if err != nil {
		return checkpoint{}, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	c, err := readCheckpoint(ctx, conn, s.slot)
	if err == nil && s.exact {
		last := s.progress.last()
		c.epoch, c.saved, c.partial = last.Epoch, last.LSN, last.Partial.Rows
	}
	return c, err
}

// problem notes that walpost did what it must not.
func (s *stage) problem(format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
	s.t.Errorf("seed %d block %d: "+format, append([]any{s.seed, s.n}, args...)...)
}

// terminate ends server processes that a condition on pg_stat_activity selects.
func (s *stage) terminate(where string, args ...any) (n int, err error) {
	err = s.query("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND "+where, args, &n)
	return n, err
}
