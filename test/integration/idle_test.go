package integration

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// number asks for one number.
func (s *stage) number(query string, args ...any) (n int64) {
	s.t.Helper()
	if err := s.conn.QueryRow(s.t.Context(), query, args...).Scan(&n); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return n
}

const unconfirmed = "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint FROM pg_replication_slots WHERE slot_name = $1"

// While the outbox is idle and other tables are busy, the slot moves on. While all is
// idle, nothing is written to the database.
func TestIdleOutbox(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"autovacuum": "off"}})
	s := newStage(t, envtest.NewDatabaseOn(t, pg), envtest.Kafka(t).Addrs())
	p := s.start("run")
	s.isReady(30 * time.Second)
	s.db.Exec(t, "CREATE TABLE other (n int, pad text)")
	before := s.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
	for range 10 {
		s.db.Exec(t, "INSERT INTO other SELECT n, repeat('x', 200) FROM generate_series(1, 30000) n")
	}
	written := s.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint") - before
	const allowed = 2 << 20 // an idle advance is saved once it is worth 1 MiB
	harness.Eventually(t, 30*time.Second, "the slot near the end of WAL", func() bool { return s.number(unconfirmed, s.slot) < allowed })
	fmt.Printf("FIGURES idle outbox beside %d MiB of other WAL: %d bytes unconfirmed\n", written>>20, s.number(unconfirmed, s.slot))

	// The server itself writes down the running transactions once after others have written.
	const quiet = 20 * time.Second
	at := s.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint")
	time.Sleep(quiet) // what is looked for is that nothing happens
	wrote := s.number("SELECT (pg_current_wal_lsn() - '0/0')::bigint") - at
	fmt.Printf("FIGURES all idle for %s: %d bytes of WAL written\n", quiet, wrote)
	if wrote > 500 {
		t.Errorf("%d bytes of WAL were written while all was idle", wrote)
	}
	s.stop(p)
}

// nextRecord returns when the first record after so many has arrived.
func (s *stage) nextRecord(after int) time.Time {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.ConsumeTopics(s.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return time.Time{}
	}
	defer cl.Close()
	for n := 0; ; {
		fetches := cl.PollFetches(s.t.Context())
		now := time.Now()
		if n += fetches.NumRecords(); n > after || s.t.Context().Err() != nil {
			return now
		}
	}
}
