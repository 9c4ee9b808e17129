package integration

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/outbox"
	"github.com/walpost/walpost/test/harness"
)

// Events that lie in no table are published as rows are: in order with them, only if their
// transaction commits and without what was rolled back to a savepoint, each once, also over
// kills and as a backlog. One outside of all transactions is published whatever becomes of
// that which wrote it.
func TestMessages(t *testing.T) {
	for _, guarantee := range []string{"at-least-once", "exactly-once"} {
		t.Run(guarantee, func(t *testing.T) {
			s := newEmitStage(t, guarantee)
			p := s.start("run")
			s.isReady(30 * time.Second)
			s.emitted(300)
			s.stop(p)
			s.emitted(300) // as a backlog
			p = s.start("run")
			for range 5 {
				s.emitted(100)
				p.Signal(syscall.SIGKILL)
				<-p.Exited()
				p = s.start("run")
			}
			s.caughtUp(time.Minute)
			s.stop(p)
			s.checkEmitted(guarantee == "exactly-once")
		})
	}
}

// emitStage writes numbers, in messages and rows by turns.
type emitStage struct {
	*stage

	n      int
	ids    []string // that must arrive, in this order
	writer *outbox.Writer
}

func newEmitStage(t *testing.T, guarantee string) *emitStage {
	t.Helper()
	s := &emitStage{stage: newStage(t, envtest.NewDatabase(t), loadKafka(t)), writer: new(outbox.Writer)}
	s.set("MESSAGES_PREFIX=events", "DELIVERY_GUARANTEE="+guarantee)
	if out := s.walpost("init", "--no-table", "--dsn", s.db.DSN); !strings.Contains(out, "walpost.emit") {
		t.Fatalf("init makes no walpost.emit:\n%s", out)
	}
	return s
}

// emitted writes in some n transactions.
func (s *emitStage) emitted(n int) {
	s.t.Helper()
	ctx := s.t.Context()
	for range n {
		tx, err := s.conn.Begin(ctx)
		must(s.t, err)
		var ids []string
		s.n++
		switch payload := fmt.Sprintf(`{"n": %d, "note": %q}`, s.n, strings.Repeat("ß😀", s.n%50)); s.n % 6 {
		case 0: // rolled back
			s.emit(tx, payload)
			must(s.t, tx.Rollback(ctx))
			continue
		case 1: // with a savepoint that is rolled back
			ids = append(ids, s.emit(tx, payload))
			inner, err := tx.Begin(ctx)
			must(s.t, err)
			s.emit(inner, payload)
			must(s.t, inner.Rollback(ctx))
			ids = append(ids, s.emit(tx, payload))
		case 2: // a row
			all, err := s.writer.Write(ctx, tx, outbox.Message{Key: "k", Route: "order", Type: "T", Payload: []byte(payload), Columns: map[string]any{"seq": s.n}})
			must(s.t, err)
			ids = append(ids, all[0].String())
		case 3: // by Go, in the compact layout
			all, err := s.writer.Emit(ctx, tx, "events", outbox.Message{Key: "k", Route: "order", Payload: []byte(payload)}, outbox.Message{Key: "k", Route: "order", Payload: []byte(payload)})
			must(s.t, err)
			ids = append(ids, all[0].String(), all[1].String())
		case 4: // outside of the transaction, which is rolled back
			id := "00000000-0000-4000-8000-" + fmt.Sprintf("%012d", s.n)
			_, err := tx.Exec(ctx, "SELECT pg_logical_emit_message(false, 'events', $1)", `{"id": "`+id+`", "aggregatetype": "order", "aggregateid": "k", "payload": `+payload+`}`)
			must(s.t, err)
			must(s.t, tx.Rollback(ctx))
			s.ids = append(s.ids, id)
			continue
		default: // of others
			_, err := tx.Exec(ctx, "SELECT pg_logical_emit_message(true, 'other', 'x'), pg_logical_emit_message(false, 'other', 'x')")
			must(s.t, err)
			ids = append(ids, s.emit(tx, strings.Repeat(" ", 100_000)+payload))
		}
		must(s.t, tx.Commit(ctx))
		s.ids = append(s.ids, ids...)
	}
}

func (s *emitStage) emit(tx pgx.Tx, payload string) (id string) {
	s.t.Helper()
	must(s.t, tx.QueryRow(s.t.Context(), "SELECT walpost.emit('order', 'k', 'T', $1::text::jsonb)::text", payload).Scan(&id))
	return id
}

// checkEmitted compares the order of the first arrivals with what was written.
func (s *emitStage) checkEmitted(once bool) {
	s.t.Helper()
	consume := harness.Consume
	if once {
		consume = harness.ConsumeCommitted
	}
	var got []string
	repeats := 0
	seen := map[string]bool{}
	must(s.t, consume(context.WithoutCancel(s.t.Context()), s.brokers, []string{s.topic}, func(r *kgo.Record, _ int32) {
		id := string(r.Headers[0].Value)
		if seen[id] {
			repeats++
			return
		}
		seen[id] = true
		got = append(got, id)
	}))
	fmt.Printf("FIGURES messages and rows: %d of %d events, %d repeats\n", len(got), len(s.ids), repeats)
	if !slices.Equal(got, s.ids) {
		for i := range max(len(got), len(s.ids)) {
			if i >= len(got) || i >= len(s.ids) || got[i] != s.ids[i] {
				s.t.Fatalf("event %d is not in its place: got %d events, want %d", i, len(got), len(s.ids))
			}
		}
	}
	if once && repeats > 0 {
		s.t.Errorf("%s repeats with exactly-once", strconv.Itoa(repeats))
	}
}
