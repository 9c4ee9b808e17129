package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// bulkRows are what a bulk job writes.
const bulkRows = 2_000_000

var bulkPad = strings.Repeat("x", 50)

// bulkJobs write the same rows into another table in one transaction.
var bulkJobs = []struct {
	name, table string
	always      bool // not only in make proof
	run         func(ctx context.Context, conn *pgx.Conn) error
}{
	{"COPY", "(n int, pad text)", true, bulkCopy},
	{"COPY with a primary key", "(n int PRIMARY KEY, pad text)", false, bulkCopy},
	{"INSERT ... SELECT", "(n int, pad text)", true, bulkInsert},
	{"INSERT ... SELECT with a primary key", "(n int PRIMARY KEY, pad text)", false, bulkInsert},
}

func bulkInsert(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "INSERT INTO bulk SELECT n, repeat('x', 50) FROM generate_series(1, $1::int) n", bulkRows)
	return err
}

func bulkCopy(ctx context.Context, conn *pgx.Conn) error {
	r, w := io.Pipe()
	go func() {
		var buf bytes.Buffer
		for n := range bulkRows {
			fmt.Fprintf(&buf, "%d\t%s\n", n, bulkPad)
			if buf.Len() > 1<<16 || n == bulkRows-1 {
				if _, err := w.Write(buf.Bytes()); err != nil {
					return
				}
				buf.Reset()
			}
		}
		_ = w.Close()
	}()
	_, err := conn.PgConn().CopyFrom(ctx, r, "COPY bulk FROM STDIN")
	_ = r.CloseWithError(io.ErrClosedPipe)
	return err
}

// An event behind a bulk job on another table does not wait for the job to be read. The
// walsender needs about as long for each record of WAL as a job that computes its own
// rows: how far it has fallen behind such a one is what a reader that does nothing but
// read shows.
func TestBulkJobBeside(t *testing.T) {
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	events, full := int64(10), events(t) >= 1_000_000
	p := s.start("run")
	s.isReady(30 * time.Second)
	s.fill(harness.OneRow, 1, events)
	s.arrived(events, time.Minute)
	s.stop(p)
	for _, job := range bulkJobs {
		if !job.always && !full {
			continue
		}
		slot := envtest.Name(t)
		s.db.Exec(t, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
		events++
		bare, _ := s.behindBulk(job.table, job.run, events, func() chan time.Time { return s.bareInsert(slot) })
		harness.Eventually(t, time.Minute, "the server has noticed that the slot's reader is gone", func() bool {
			_, err := s.conn.Exec(t.Context(), "SELECT pg_drop_replication_slot($1)", slot)
			return err == nil
		})

		p = s.start("run")
		s.isReady(30 * time.Second)
		s.arrived(events, time.Minute)
		events++
		delay, took := s.behindBulk(job.table, job.run, events, func() chan time.Time {
			arrived := make(chan time.Time, 1)
			go func() { arrived <- s.nextRecord(int(events) - 1) }()
			return arrived
		})
		fmt.Printf("FIGURES an event behind %s of %d rows into another table (%.1f s): in Kafka %d ms after its commit (aim: at most 100); at a reader that does nothing else %d ms\n",
			job.name, bulkRows, took.Seconds(), delay.Milliseconds(), bare.Milliseconds())
		if delay > 5*time.Second {
			t.Errorf("the event waited %s", delay)
		}
		s.stop(p)
	}
	s.check()
}

// behindBulk runs a job and writes event n after it. It returns how long that took to
// arrive, of which reader tells, and how long the job took.
func (s *stage) behindBulk(table string, job func(context.Context, *pgx.Conn) error, n int64, reader func() chan time.Time) (delay, took time.Duration) {
	s.t.Helper()
	s.db.Exec(s.t, "DROP TABLE IF EXISTS bulk")
	s.db.Exec(s.t, "CREATE TABLE bulk "+table)
	s.db.Exec(s.t, "CHECKPOINT")
	arrived := reader()
	begun := time.Now()
	if err := job(s.t.Context(), s.conn); err != nil {
		s.t.Fatal(err)
	}
	took = time.Since(begun)
	s.fill(harness.OneRow, n, n)
	committed := time.Now()
	return (<-arrived).Sub(committed), took
}

// bareInsert streams from slot, as walpost does, and tells when an insert that is not
// part of a streamed transaction has come. It has begun when it returns.
func (s *stage) bareInsert(slot string) chan time.Time {
	s.t.Helper()
	cfg, err := pgconn.ParseConfig(s.db.DSN)
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(s.t.Context(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	args := []string{"proto_version '2'", "streaming 'on'", "publication_names 'walpost'"}
	if err := pglogrepl.StartReplication(s.t.Context(), conn, slot, 0, pglogrepl.StartReplicationOptions{PluginArgs: args}); err != nil {
		s.t.Fatal(err)
	}
	arrived := make(chan time.Time, 1)
	go func() {
		defer func() { _ = conn.Close(context.Background()) }()
		defer close(arrived)
		for {
			msg, err := conn.ReceiveMessage(s.t.Context())
			if err != nil {
				return
			}
			const header = 1 + 3*8 // of XLogData, whose message follows
			if m, ok := msg.(*pgproto3.CopyData); ok && len(m.Data) > header && m.Data[0] == pglogrepl.XLogDataByteID && m.Data[header] == byte(pglogrepl.MessageTypeInsert) {
				arrived <- time.Now()
				return
			}
		}
	}()
	return arrived
}
