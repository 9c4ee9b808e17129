// Package guard counts what an event allocates on its way through walpost: nothing. Its
// benchmarks, and those of the packages, are compared with a baseline by guard.sh.
package guard

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
	"github.com/walpost/walpost/pkg/outbox"
)

var payload = `{"total": "` + strings.Repeat("9", 288) + `"}`

// shape is what an event may look like.
type shape struct {
	name     string
	cfg      outbox.Config
	row      []column
	streamed bool
	want     float64 // allocations for an event
}

// shapes are those that cost different work.
var shapes = []shape{
	{name: "Text", row: outboxRow()},
	{name: "Streamed", row: outboxRow(), streamed: true},
	{
		name: "Binary",
		cfg:  outbox.Config{Timestamp: "created_at"},
		row: outboxRow(
			binaryOf("id", pgtype.UUIDOID, []byte("0123456789abcdef")...),
			binaryOf("aggregatetype", pgtype.VarcharOID, []byte("order")...),
			binaryOf("aggregateid", pgtype.Int8OID, 0, 0, 0, 0, 0, 0, 0x12, 0x67),
			binaryOf("payload", pgtype.JSONBOID, append([]byte{1}, payload...)...),
			binaryOf("created_at", pgtype.TimestamptzOID, 0, 2, 0xcd, 0xaf, 0x2f, 0x0b, 0x8f, 0x35),
		),
	},
	{name: "BinaryStreamed", row: outboxRow(binaryOf("id", pgtype.UUIDOID, []byte("0123456789abcdef")...)), streamed: true},
	{name: "NullPayload", row: outboxRow(null("payload", pgtype.JSONBOID))},
	{name: "LargePayload", row: outboxRow(text("payload", pgtype.TextOID, strings.Repeat("x", 60<<10)))},
	{ // A buffer of more than 64 KiB is not kept for another record.
		name: "HugePayload", row: outboxRow(text("payload", pgtype.TextOID, strings.Repeat("x", 70<<10))), want: 1,
	},
	{name: "Bytea", row: outboxRow(text("payload", pgtype.ByteaOID, `\x`+strings.Repeat("7f", 300)))},
	{name: "LargeBytea", row: outboxRow(text("payload", pgtype.ByteaOID, `\x`+strings.Repeat("7f", 4<<10)))},
	{
		name: "Placed",
		cfg:  outbox.Config{Timestamp: "created_at", Place: []string{"type:header:eventType", "created_at:header", "n:header", "b:header", "p:partition"}},
		row:  outboxRow(text("n", pgtype.Int4OID, "-5"), text("b", pgtype.ByteaOID, `\x000102`), text("p", pgtype.Int4OID, "0")),
	},
	{
		name: "Topic",
		cfg:  outbox.Config{RouteRegex: "(?<context>[a-z]+)[.](.*)", Topic: "events.${context}-$2"},
		row:  outboxRow(text("aggregatetype", pgtype.VarcharOID, "sales.order")),
	},
	{name: "PositionHeaders", cfg: outbox.Config{PositionHeaders: true}, row: outboxRow()},
}

// A transaction of one row, from the server's bytes to a record that is free again.
func TestDecodeRouteAllocatesNothing(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			count(t, running{t.Context(), router{newRouter(t, s.cfg).Route}}, s, 100)
		})
	}
}

// The same through a pipeline, with the tracker, a sink and acknowledgements. What saves
// the checkpoint beside it allocates with each save, which is less than once an event.
func TestPipelineAllocatesNothing(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			underPipeline(t, config(t, s.cfg), func(r running) { count(t, r, s, 4*inFlight) })
		})
	}
}

// The same with as many in flight as the kafka sink's budget allows.
func TestBacklogAllocatesNothing(t *testing.T) {
	cfg := config(t, outbox.Config{})
	cfg.Sink = &sink{max: 6_000}
	underPipeline(t, cfg, func(r running) { count(t, r, shapes[0], 20_000) })
}

// The same with payloads of very different sizes by turns, up to the largest whose buffer is kept.
// All are one step, since a part of an allocation counts as none.
func TestMixedSizesAllocateNothing(t *testing.T) {
	var mixed []shape
	for _, bytes := range []int{100, 300, 9_000, 300, 40_000, 1_500, 300, 3_000, 60_000, 300, 2_200} {
		body := `"` + strings.Repeat("x", bytes) + `"`
		mixed = append(mixed, shape{row: outboxRow(text("payload", pgtype.JSONBOID, body))})
	}
	underPipeline(t, config(t, outbox.Config{}), func(r running) { countSteps(t, stepOf(t, r, mixed...), 0, 4*inFlight) })
}

// The same with exactly-once. A commit allocates, which is less than once an event.
func TestTransactionalAllocatesNothing(t *testing.T) {
	cfg := config(t, outbox.Config{})
	cfg.Transactional = true
	underPipeline(t, cfg, func(r running) { count(t, r, shapes[0], 100_000) })
}

// The same with dead letters, behind one of another key.
func TestDeadLettersAllocateNothing(t *testing.T) {
	partition := func(n string) column { return text("p", pgtype.Int4OID, n) }
	dead := shape{row: outboxRow(partition("-1"), text("aggregateid", pgtype.TextOID, "dead"))}
	cfg := config(t, outbox.Config{Place: []string{"p:partition"}})
	cfg.DeadLetters = newDeadLetters()
	cfg.Sink = &sink{max: inFlight, log: cfg.DeadLetters.Log.(letterLog)}
	underPipeline(t, cfg, func(r running) {
		stepOf(t, r, dead)()
		count(t, r, shape{row: outboxRow(partition("0"))}, 4*inFlight)
	})
}

// attempts is how often it is counted again: on a busy machine a commit may be so late
// that more is in flight than ever.
const attempts = 3

// count counts what an event allocates once so many have made what is used again.
func count(t *testing.T, r running, s shape, warm int) {
	t.Helper()
	countSteps(t, stepOf(t, r, s), s.want, warm)
}

func countSteps(t *testing.T, step func(), want float64, warm int) {
	t.Helper()
	for range warm {
		step()
	}
	got := testing.AllocsPerRun(10_000, step)
	for n := 0; got != want && n < attempts; n++ {
		got = testing.AllocsPerRun(10_000, step)
	}
	if got != want {
		t.Errorf("an event allocates %v times, want %v", got, want)
	}
}

// stepOf returns a function that hands over a transaction of one row for each shape. All have
// the columns of the first.
func stepOf(t testing.TB, r running, all ...shape) func() {
	t.Helper()
	var messages []message
	for _, s := range all {
		if s.streamed {
			messages = append(messages, streamed(s.row)...)
		} else {
			messages = append(messages, transaction(s.row)...)
		}
	}
	var st stream
	if err := st.take(r.ctx, r.h, []message{relation(all[0].row)}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := st.take(r.ctx, r.h, messages); err != nil {
			t.Fatal(err)
		}
	}
}

func newRouter(t testing.TB, cfg outbox.Config) *outbox.Router {
	t.Helper()
	r, err := outbox.NewRouter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func config(t testing.TB, cfg outbox.Config) cdc.Config {
	return cdc.Config{
		Sink: &sink{max: inFlight}, Store: checkpointtest.NewMemory().Open(),
		Route: newRouter(t, cfg).Route, Logger: slog.New(slog.DiscardHandler),
	}
}
