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

const (
	endOfWAL    = "SELECT (pg_current_wal_lsn() - '0/0')::bigint"
	unconfirmed = "SELECT (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint FROM pg_replication_slots WHERE slot_name = $1"
	retained    = "SELECT (pg_current_wal_lsn() - restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = $1"
)

// While the outbox is idle and other tables are busy, the slot moves on and the server
// need not keep what they write; nor what the outbox writes while all else is idle. While
// all is idle, nothing is written to the database.
func TestIdleOutbox(t *testing.T) {
	pg := envtest.NewPostgres(t, testenv.PostgresConfig{Settings: map[string]string{"autovacuum": "off"}})
	s := newStage(t, envtest.NewDatabaseOn(t, pg), envtest.Kafka(t).Addrs())
	p := s.start("run")
	s.isReady(30 * time.Second)
	s.db.Exec(t, "CREATE TABLE other (n int, pad text)")
	s.moves("idle outbox beside other tables", func(int64) {
		s.db.Exec(t, "INSERT INTO other SELECT n, repeat('x', 200) FROM generate_series(1, 50000) n")
	})

	// The server itself writes down the running transactions once after others have written.
	const quiet = 20 * time.Second
	at := s.number(endOfWAL)
	time.Sleep(quiet) // what is looked for is that nothing happens
	wrote := s.number(endOfWAL) - at
	fmt.Printf("FIGURES all idle for %s: %d bytes of WAL written\n", quiet, wrote)
	if wrote > 1000 { // the last entry of the checkpoint log may still have come
		t.Errorf("%d bytes of WAL were written while all was idle", wrote)
	}
	s.moves("busy outbox alone", func(round int64) {
		const rows = 10_000
		s.fill(harness.Rows, round*rows+1, (round+1)*rows)
	})
	s.stop(p)
}

// moves writes in rounds, and wants the slot to follow each and to keep no more than the
// last ones. The server finds out what it needs no more when it writes down the running
// transactions, as a checkpoint makes it do, and acts on it when something later is
// confirmed.
func (s *stage) moves(what string, write func(round int64)) {
	s.t.Helper()
	const (
		rounds, kept = 6, 3
		allowed      = 2 << 20 // an idle advance is saved once it is worth 1 MiB
	)
	before := s.number(endOfWAL)
	for round := range int64(rounds) {
		write(round)
		harness.Eventually(s.t, 30*time.Second, "the slot near the end of WAL", func() bool { return s.number(unconfirmed, s.slot) < allowed })
		s.db.Exec(s.t, "CHECKPOINT")
	}
	written, keeps := s.number(endOfWAL)-before, s.number(retained, s.slot)
	fmt.Printf("FIGURES %s, %d MiB of WAL written: %d bytes unconfirmed, %.1f MiB kept for the slot\n", what, written>>20, s.number(unconfirmed, s.slot), float64(keeps)/(1<<20))
	if keeps > written*kept/rounds+allowed {
		s.t.Errorf("%s: the server keeps %d of %d bytes for the slot", what, keeps, written)
	}
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
