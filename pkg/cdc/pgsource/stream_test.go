package pgsource

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv"
	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// collector is a handler that keeps the payloads of each transaction.
type collector struct {
	open []string
	done []string
	idle cdc.LSN
	want int
	full chan struct{} // closed when want transactions have come
}

func (c *collector) Begin(cdc.Transaction) error { c.open = nil; return nil }

func (c *collector) Insert(_ context.Context, ev *cdc.Event) error {
	c.open = append(c.open, string(ev.Values[0].Data))
	return nil
}

func (c *collector) Commit(cdc.LSN) error {
	c.done = append(c.done, fmt.Sprintf("%s..%s=%d", c.open[0], c.open[len(c.open)-1], len(c.open)))
	if len(c.done) == c.want {
		close(c.full)
	}
	return nil
}

func (c *collector) Idle(lsn cdc.LSN) { c.idle = max(c.idle, lsn) }

// stream opens a stream and runs it until the handler has seen so many
// transactions.
func stream(t *testing.T, cfg Config, want int) *collector {
	t.Helper()
	src := newSource(t, cfg)
	st, err := src.Open(t.Context(), fromSlot)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	c := &collector{want: want, full: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- st.Run(ctx, c) }()
	select {
	case <-c.full:
		cancel()
	case err := <-ended:
		t.Fatalf("Run() = %v, after %v", err, c.done)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run() = %v", err)
	}
	return c
}

// Transactions that are streamed before they commit come whole, in the order of
// their commits, without the rows of rolled back savepoints, whether they are
// kept in memory or in files.
func TestStreamedTransactions(t *testing.T) {
	for _, version := range envtest.Versions() {
		pg := envtest.NewPostgres(t, testenv.PostgresConfig{Version: version, Settings: map[string]string{"logical_decoding_work_mem": "64kB"}})
		for name, memory := range map[string]int64{"Memory": 64 << 20, "File": 4 << 10} {
			t.Run(pg.Version+"/"+name, func(t *testing.T) {
				db := envtest.NewDatabaseOn(t, pg)
				db.Exec(t, "CREATE TABLE outbox (n int, pad text); CREATE TABLE other (n int, pad text); CREATE PUBLICATION p FOR TABLE outbox, other")
				slot := envtest.Name(t)
				db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
				const fill = "INSERT INTO outbox SELECT i, repeat('x', 100) FROM generate_series(%d, %d) i"
				a, b := db.Connect(t), db.Connect(t)
				run := func(first bool, sql string) {
					t.Helper()
					conn := b
					if first {
						conn = a
					}
					if _, err := conn.Exec(t.Context(), sql); err != nil {
						t.Fatalf("%s: %v", sql, err)
					}
				}
				run(true, "BEGIN")
				run(true, fmt.Sprintf(fill, 1, 2000))
				run(false, "BEGIN")
				run(false, fmt.Sprintf(fill, 10001, 12000))
				run(true, "SAVEPOINT s")
				run(true, fmt.Sprintf(fill, 5000, 6999))
				run(true, "SAVEPOINT s2")
				run(true, fmt.Sprintf(fill, 5000, 6999))
				run(true, "ROLLBACK TO s")
				run(true, "INSERT INTO other SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i")
				run(true, fmt.Sprintf(fill, 2001, 4000))
				run(false, "SAVEPOINT s; INSERT INTO outbox SELECT 0, 'x' FROM generate_series(1, 2000); ROLLBACK TO s")
				run(false, fmt.Sprintf(fill, 12001, 13000))
				run(false, "COMMIT")
				run(true, "COMMIT")
				run(true, "BEGIN")
				run(true, fmt.Sprintf(fill, 1, 3000))
				run(true, "ROLLBACK")
				run(true, "INSERT INTO outbox VALUES (77, '')")

				got := stream(t, Config{
					DSN: db.DSN, Slot: slot, Publication: "p", Tables: []Table{{"public", "outbox"}}, MaxTxMemory: memory, SpillDir: t.TempDir(),
				}, 3).done
				want := []string{"10001..13000=3000", "1..4000=4000", "77..77=1"}
				if !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
			})
		}
	}
}

// A publication may hold other tables: their rows are passed over, and their
// commits count as idle positions.
func TestOtherTables(t *testing.T) {
	db := envtest.NewDatabase(t)
	db.Exec(t, "CREATE TABLE outbox (n int); CREATE TABLE other (n int); CREATE PUBLICATION p FOR ALL TABLES")
	slot := envtest.Name(t)
	db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	for _, sql := range []string{"INSERT INTO other VALUES (1)", "INSERT INTO outbox VALUES (2)", "INSERT INTO other VALUES (3)", "INSERT INTO outbox VALUES (4)"} {
		db.Exec(t, sql)
	}
	c := stream(t, Config{DSN: db.DSN, Slot: slot, Publication: "p", Tables: []Table{{"public", "outbox"}}}, 2)
	if got := strings.Join(c.done, " "); got != "2..2=1 4..4=1" {
		t.Errorf("got %s", got)
	}
	if c.idle == 0 {
		t.Error("no idle position came of the other table's commits")
	}
}
