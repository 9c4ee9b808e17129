package pgoutput

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// when is a time, and whenHex what the server writes for it.
var when = time.Date(2025, 1, 2, 3, 4, 5, 678901000, time.UTC)

const whenHex = "0002cdaf2f0b8f35"

var row = []cdc.Value{
	{Format: cdc.Text, Data: []byte("ab")},
	{Format: cdc.Null},
	{Format: cdc.Unchanged},
	{Format: cdc.Binary, Data: []byte{0, 255}},
	{Format: cdc.Text, Data: []byte{}},
}

const rowHex = "0005" + "74 00000002 6162" + "6e" + "75" + "62 00000002 00ff" + "74 00000000"

// goldens are messages written out by hand, byte by byte.
var goldens = []struct {
	name     string
	streamed bool
	hex      string
	want     Message
}{
	{
		"begin", false, "42 0000001600000abc" + whenHex + "000002e9",
		&Begin{cdc.Transaction{XID: 745, CommitLSN: 0x1600000abc, CommitTime: when}},
	},
	{
		"commit", false, "43 00 0000001600000abc 0000001600000aec" + whenHex,
		&Commit{CommitLSN: 0x1600000abc, EndLSN: 0x1600000aec, CommitTime: when},
	},
	{
		"commit before the epoch", false, "43 00 0000000000000001 0000000000000002 ffffffffffffffff",
		&Commit{CommitLSN: 1, EndLSN: 2, CommitTime: time.Date(1999, 12, 31, 23, 59, 59, 999999000, time.UTC)},
	},
	{
		"origin", false, "4f 0000000000000102 6e6f646500",
		&Origin{CommitLSN: 0x102, Name: []byte("node")},
	},
	{
		"origin, streamed", true, "4f 0000000000000102 6e6f646500",
		&Origin{CommitLSN: 0x102, Name: []byte("node")},
	},
	{
		"relation", false, "52 00004001 7075626c696300 6f7574626f7800 64 0002" +
			"01 696400 00000b86 ffffffff" + "00 6e6f746500 00000413 0000000e",
		&Relation{Relation: &cdc.Relation{
			OID: 16385, Schema: "public", Name: "outbox",
			Columns: []cdc.Column{{Name: "id", Type: 2950, Modifier: -1}, {Name: "note", Type: 1043, Modifier: 14}},
		}},
	},
	{
		"relation, streamed, in pg_catalog, without columns", true, "52 000002ea 00004001 00 7800 6e 0000",
		&Relation{XID: 746, Relation: &cdc.Relation{OID: 16385, Schema: "pg_catalog", Name: "x", Columns: []cdc.Column{}}},
	},
	{
		"type", false, "59 00004002 7075626c696300 6d6f6f6400",
		&Type{OID: 16386, Schema: "public", Name: "mood"},
	},
	{
		"type, streamed, in pg_catalog", true, "59 000002ea 00004002 00 7465787400",
		&Type{XID: 746, OID: 16386, Schema: "pg_catalog", Name: "text"},
	},
	{
		"insert", false, "49 00004001 4e" + rowHex,
		&Insert{RelationID: 16385, Values: row},
	},
	{
		"insert, streamed", true, "49 000002ea 00004001 4e" + rowHex,
		&Insert{XID: 746, RelationID: 16385, Values: row},
	},
	{
		"insert without columns", false, "49 00004001 4e 0000",
		&Insert{RelationID: 16385, Values: []cdc.Value{}},
	},
	{
		"update", false, "55 00004001 4e" + rowHex,
		&Update{RelationID: 16385, New: row},
	},
	{
		"update with key", false, "55 00004001 4b 0001 74 00000001 31 4e" + rowHex,
		&Update{RelationID: 16385, Old: []cdc.Value{{Format: cdc.Text, Data: []byte("1")}}, KeyOnly: true, New: row},
	},
	{
		"update with old row, streamed", true, "55 000002ea 00004001 4f" + rowHex + "4e 0001 6e",
		&Update{XID: 746, RelationID: 16385, Old: row, New: []cdc.Value{{Format: cdc.Null}}},
	},
	{
		"delete by key", false, "44 00004001 4b 0001 74 00000001 31",
		&Delete{RelationID: 16385, Old: []cdc.Value{{Format: cdc.Text, Data: []byte("1")}}, KeyOnly: true},
	},
	{
		"delete, streamed", true, "44 000002ea 00004001 4f" + rowHex,
		&Delete{XID: 746, RelationID: 16385, Old: row},
	},
	{
		"truncate", false, "54 00000002 01 00004001 00004002",
		&Truncate{RelationIDs: []uint32{16385, 16386}, Cascade: true},
	},
	{
		"truncate, streamed", true, "54 000002ea 00000001 02 00004001",
		&Truncate{XID: 746, RelationIDs: []uint32{16385}, RestartIdentity: true},
	},
	{
		"logical message", false, "4d 00 0000001600000abc 6f7574626f7800 00000003 7b7d00",
		&LogicalMessage{LSN: 0x1600000abc, Prefix: []byte("outbox"), Content: []byte("{}\x00")},
	},
	{
		"logical message, streamed", true, "4d 000002ea 01 0000001600000abc 00 00000000",
		&LogicalMessage{XID: 746, Transactional: true, LSN: 0x1600000abc, Prefix: []byte{}, Content: []byte{}},
	},
	{"stream start", false, "53 000002e9 01", &StreamStart{XID: 745, First: true}},
	{"stream start again", false, "53 000002e9 00", &StreamStart{XID: 745}},
	{"stream stop", true, "45", &StreamStop{}},
	{
		"stream commit", false, "63 000002e9 00 0000001600000abc 0000001600000aec" + whenHex,
		&StreamCommit{cdc.Transaction{XID: 745, CommitLSN: 0x1600000abc, CommitTime: when}, 0x1600000aec},
	},
	{"stream abort", false, "41 000002e9 000002ea", &StreamAbort{XID: 745, SubXID: 746}},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatalf("bad hex: %v", err)
	}
	return data
}

func goldenOf(t testing.TB, name string) []byte {
	t.Helper()
	for _, g := range goldens {
		if g.name == name {
			return unhex(t, g.hex)
		}
	}
	t.Fatalf("no golden %q", name)
	return nil
}

// same reports whether two messages are equal. Nil and empty rows count as
// equal; nil and empty values do not.
func same(a, b Message) bool { return reflect.DeepEqual(emptyAsNil(a), emptyAsNil(b)) }

func emptyAsNil(m Message) Message {
	switch m := m.(type) {
	case *Insert:
		return &Insert{m.XID, m.RelationID, orNil(m.Values)}
	case *Update:
		return &Update{m.XID, m.RelationID, orNil(m.Old), m.KeyOnly, orNil(m.New)}
	case *Delete:
		return &Delete{m.XID, m.RelationID, orNil(m.Old), m.KeyOnly}
	case *Truncate:
		return &Truncate{m.XID, orNil(m.RelationIDs), m.Cascade, m.RestartIdentity}
	}
	return m
}

func orNil[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

// xidOf returns a change's XID, and zero for other messages.
func xidOf(m Message) uint32 {
	switch m := m.(type) {
	case *Relation:
		return m.XID
	case *Type:
		return m.XID
	case *Insert:
		return m.XID
	case *Update:
		return m.XID
	case *Delete:
		return m.XID
	case *Truncate:
		return m.XID
	case *LogicalMessage:
		return m.XID
	}
	return 0
}
