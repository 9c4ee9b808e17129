package pgsource

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walpost/walpost/pkg/cdc"
)

// What a walsender sends of the table of idle: each message in its envelope.
const (
	beginHex  = "42 0000001600000abc 0002cdaf2f0b8f35 000002e9"
	insertHex = "49 00004001 4e 0002 74 00000002 6162 6e"
	commitHex = "43 00 0000001600000abc 0000001600000aec 0002cdaf2f0b8f35"

	streamStartHex  = "53 000002e9 01"
	streamedHex     = "49 000002e9 00004001 4e 0002 74 00000002 6162 6e"
	streamStopHex   = "45"
	streamCommitHex = "63 000002e9 00 0000001600000abc 0000001600000aec 0002cdaf2f0b8f35"

	keepaliveHex = "6b 0000001600000aec 0002cdaf2f0b8f35 00"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wrapped returns messages in the envelope of a walsender.
func wrapped(t testing.TB, messages ...string) [][]byte {
	var all [][]byte
	for _, m := range messages {
		all = append(all, unhex(t, "77 0000001600000abc 0000001600000abc 0002cdaf2f0b8f35"+m))
	}
	return all
}

// idle returns a stream without a connection that knows an outbox.
func idle() *Stream {
	rel := &cdc.Relation{OID: 0x4001, Schema: "public", Name: "outbox", Columns: []cdc.Column{{Name: "id"}, {Name: "payload"}}}
	st := &Stream{src: &Source{metrics: newMetrics(nil)}, wake: make(chan struct{}, 1)}
	st.repl.Store(&replication{reader: &socketReader{}})
	st.in.relations = map[uint32]*relation{rel.OID: {Relation: rel, outbox: true}}
	st.in.others = map[uint32]bool{}
	st.in.pending = inProgress{max: 1 << 20, txs: map[uint32]*streamedTx{}}
	return st
}

// endless is a connection on which the same bytes come again and again.
type endless struct {
	net.Conn // nil
	bytes    []byte
	at       int
}

func (c *endless) Read(b []byte) (int, error) {
	n := copy(b, c.bytes[c.at:])
	c.at = (c.at + n) % len(c.bytes)
	return n, nil
}

// connected returns a connection over which the messages come without end.
func connected(t testing.TB, messages [][]byte) *pgconn.PgConn {
	t.Helper()
	conn := &endless{}
	for _, data := range messages {
		var err error
		if conn.bytes, err = (&pgproto3.CopyData{Data: data}).Encode(conn.bytes); err != nil {
			t.Fatal(err)
		}
	}
	frontend := pgproto3.NewFrontend(&socketReader{src: conn}, io.Discard)
	cfg, err := pgconn.ParseConfig("host=localhost")
	if err != nil {
		t.Fatal(err)
	}
	pg, err := pgconn.Construct(&pgconn.HijackedConn{Conn: conn, Frontend: frontend, Config: cfg, TxStatus: 'I'})
	if err != nil {
		t.Fatal(err)
	}
	return pg
}

// counter is a handler that counts rows.
type counter struct{ rows int }

func (c *counter) Begin(cdc.Transaction) error              { return nil }
func (c *counter) Insert(context.Context, *cdc.Event) error { c.rows++; return nil }
func (c *counter) Commit(cdc.LSN) error                     { return nil }
func (c *counter) Idle(cdc.LSN)                             {}

// allocations returns how often a stream allocates for the messages, and checks how many
// rows they bring.
func allocations(t *testing.T, messages [][]byte, rows int) float64 {
	t.Helper()
	const runs = 1000
	st, h, conn, ctx := idle(), &counter{}, connected(t, messages), t.Context()
	got := testing.AllocsPerRun(runs, func() {
		for range messages {
			msg, err := st.receive(conn, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := st.copyData(ctx, h, msg.(*pgproto3.CopyData).Data); err != nil {
				t.Fatal(err)
			}
		}
	})
	if want := (runs + 1) * rows; h.rows != want {
		t.Fatalf("%d rows were handed over, want %d", h.rows, want)
	}
	return got
}

func TestStreamAllocatesNothing(t *testing.T) {
	messages := append(wrapped(t, beginHex, insertHex, commitHex), unhex(t, keepaliveHex))
	if got := allocations(t, messages, 1); got != 0 {
		t.Errorf("%v allocations for a transaction of one row, want 0", got)
	}
}

// A transaction in progress has to be kept: itself, the list of its chunks, and the first
// of them. Its rows allocate nothing of their own.
func TestStreamedAllocatesForTheTransaction(t *testing.T) {
	const want = 3
	for _, rows := range []int{1, 100} { // both in one chunk
		var messages []string
		messages = append(messages, streamStartHex)
		for range rows {
			messages = append(messages, streamedHex)
		}
		messages = append(messages, streamStopHex, streamCommitHex)
		if got := allocations(t, wrapped(t, messages...), rows); got != want {
			t.Errorf("%v allocations for a transaction of %d rows, want %d", got, rows, want)
		}
	}
}

// What is pulled goes through the file: from a row of the query to the handler nothing is
// allocated for it, but for the file and the buffers, once.
func TestPullAllocatesNothingForARow(t *testing.T) {
	const rows, most = 5000, 60
	var messages [][]byte
	for _, m := range []string{beginHex, insertHex, commitHex} {
		data := unhex(t, m)
		row := binary.BigEndian.AppendUint64([]byte{0, 2, 0, 0, 0, 8}, 0x16_00000abc)
		row = binary.BigEndian.AppendUint32(row, uint32(len(data)))
		messages = append(messages, append(row, data...))
	}
	st, h, ctx, dir := idle(), &counter{}, t.Context(), t.TempDir()
	const runs = 5
	got := testing.AllocsPerRun(runs, func() {
		s, err := newSpool(dir, 1<<20, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		out := bufio.NewWriterSize(s, spoolBuffer)
		for range rows {
			for _, m := range messages {
				if err := writeFrame(out, frameRow, m); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := out.Flush(); err != nil {
			t.Fatal(err)
		}
		s.end(nil)
		if err := eachFrame(bufio.NewReaderSize(s, readBuffer), func(frame []byte) error { return st.copyRow(ctx, h, frame[1:]) }); err != nil {
			t.Fatal(err)
		}
	})
	if want := (runs + 1) * rows; h.rows != want {
		t.Fatalf("%d rows were handed over, want %d", h.rows, want)
	}
	if got > most {
		t.Errorf("%v allocations for a pull of %d transactions of one row, want %d at most", got, rows, most)
	}
}
