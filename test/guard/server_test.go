package guard

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgoutput"
)

const (
	relationID = 16385
	xid        = 745
	endLSN     = 0x1600000aec
	walHeader  = 25 // of what a walsender wraps a message in
)

var when = time.Date(2025, 1, 2, 3, 4, 5, 678901000, time.UTC)

// column is a column of a table, and the value in its only row.
type column struct {
	name  string
	typ   uint32
	value cdc.Value
}

func text(name string, typ uint32, s string) column {
	return column{name, typ, cdc.Value{Format: cdc.Text, Data: []byte(s)}}
}

func binaryOf(name string, typ uint32, b ...byte) column {
	return column{name, typ, cdc.Value{Format: cdc.Binary, Data: b}}
}

func null(name string, typ uint32) column { return column{name, typ, cdc.Value{Format: cdc.Null}} }

// message is one as the plugin writes it, in its envelope.
// https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
type message []byte

func newMessage(kind pgoutput.Kind) message {
	m := make(message, walHeader, 1024)
	m[0] = byte(pgoutput.KindXLogData)
	return append(m, byte(kind))
}

func (m message) u8(v byte) message        { return append(m, v) }
func (m message) u16(v int) message        { return binary.BigEndian.AppendUint16(m, uint16(v)) }
func (m message) u32(v uint32) message     { return binary.BigEndian.AppendUint32(m, v) }
func (m message) u64(v uint64) message     { return binary.BigEndian.AppendUint64(m, v) }
func (m message) cstring(s string) message { return append(append(m, s...), 0) }

func (m message) time() message {
	epoch := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	return m.u64(uint64(when.Sub(epoch).Microseconds()))
}

// change begins a message that carries a transaction's number if it is streamed.
func change(kind pgoutput.Kind, streamed bool) message {
	m := newMessage(kind)
	if streamed {
		m = m.u32(xid)
	}
	return m
}

func relation(row []column) message {
	m := newMessage(pgoutput.KindRelation).u32(relationID).cstring("public").cstring("outbox").u8('d').u16(len(row))
	for _, c := range row {
		m = m.u8(0).cstring(c.name).u32(c.typ).u32(^uint32(0))
	}
	return m
}

func insert(row []column, streamed bool) message {
	m := change(pgoutput.KindInsert, streamed).u32(relationID).u8('N').u16(len(row))
	for _, c := range row {
		m = m.u8(byte(c.value.Format))
		if c.value.Format != cdc.Null {
			m = append(m.u32(uint32(len(c.value.Data))), c.value.Data...)
		}
	}
	return m
}

// transaction is one of one row, as it is sent once it has committed.
func transaction(row []column) []message {
	return []message{
		newMessage(pgoutput.KindBegin).u64(endLSN - 48).time().u32(xid),
		insert(row, false),
		newMessage(pgoutput.KindCommit).u8(0).u64(endLSN - 48).u64(endLSN).time(),
	}
}

// streamed is the same, sent while it was in progress.
func streamed(row []column) []message {
	return []message{
		newMessage(pgoutput.KindStreamStart).u32(xid).u8(1),
		insert(row, true),
		newMessage(pgoutput.KindStreamStop),
		newMessage(pgoutput.KindStreamCommit).u32(xid).u8(0).u64(endLSN - 48).u64(endLSN).time(),
	}
}

// outboxRow is a row of the default table, in which the columns replace those of their
// name or come behind them.
func outboxRow(columns ...column) []column {
	row := []column{
		text("id", pgtype.UUIDOID, "0192d3a4-5b6c-7d8e-9f00-112233445566"),
		text("aggregatetype", pgtype.VarcharOID, "order"),
		text("aggregateid", pgtype.VarcharOID, "order-4711"),
		text("type", pgtype.VarcharOID, "OrderPlaced"),
		text("payload", pgtype.JSONBOID, payload),
		text("created_at", pgtype.TimestamptzOID, "2025-01-02 03:04:05.678901+00"),
	}
next:
	for _, c := range columns {
		for i := range row {
			if row[i].name == c.name {
				row[i] = c
				continue next
			}
		}
		row = append(row, c)
	}
	return row
}
