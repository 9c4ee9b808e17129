package pgoutput

import (
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"pgregory.net/rapid"

	"github.com/walpost/walpost/pkg/cdc"
)

// oracle decodes with pglogrepl, which panics on what is not whole. Its answer
// comes in our types.
func oracle(data []byte, streamed bool) (Message, error) {
	m, err := pglogrepl.ParseV2(data, streamed)
	if err != nil {
		return nil, err
	}
	switch m := m.(type) {
	case *pglogrepl.RelationMessageV2:
		return oracleRelation(m.Xid, &m.RelationMessage), nil
	case *pglogrepl.TypeMessageV2:
		return &Type{m.Xid, m.DataType, oracleSchema(m.Namespace), m.Name}, nil
	case *pglogrepl.InsertMessageV2:
		return &Insert{m.Xid, m.RelationID, oracleRow(m.Tuple)}, nil
	case *pglogrepl.UpdateMessageV2:
		return &Update{m.Xid, m.RelationID, oracleRow(m.OldTuple), m.OldTupleType == 'K', oracleRow(m.NewTuple)}, nil
	case *pglogrepl.DeleteMessageV2:
		return &Delete{m.Xid, m.RelationID, oracleRow(m.OldTuple), m.OldTupleType == 'K'}, nil
	case *pglogrepl.TruncateMessageV2:
		return &Truncate{m.Xid, m.RelationIDs, m.Option&1 != 0, m.Option&2 != 0}, nil
	case *pglogrepl.LogicalDecodingMessageV2:
		return &LogicalMessage{m.Xid, m.Transactional, cdc.LSN(m.LSN), []byte(m.Prefix), m.Content}, nil
	default:
		return oracleTransaction(m), nil
	}
}

func oracleTransaction(m pglogrepl.Message) Message {
	switch m := m.(type) {
	case *pglogrepl.BeginMessage:
		return &Begin{cdc.Transaction{XID: m.Xid, CommitLSN: cdc.LSN(m.FinalLSN), CommitTime: m.CommitTime.UTC()}}
	case *pglogrepl.CommitMessage:
		return &Commit{cdc.LSN(m.CommitLSN), cdc.LSN(m.TransactionEndLSN), m.CommitTime.UTC()}
	case *pglogrepl.OriginMessage:
		return &Origin{cdc.LSN(m.CommitLSN), []byte(m.Name)}
	case *pglogrepl.StreamStartMessageV2:
		return &StreamStart{m.Xid, m.FirstSegment == 1}
	case *pglogrepl.StreamStopMessageV2:
		return &StreamStop{}
	case *pglogrepl.StreamCommitMessageV2:
		return &StreamCommit{
			cdc.Transaction{XID: m.Xid, CommitLSN: cdc.LSN(m.CommitLSN), CommitTime: m.CommitTime.UTC()},
			cdc.LSN(m.TransactionEndLSN),
		}
	case *pglogrepl.StreamAbortMessageV2:
		return &StreamAbort{m.Xid, m.SubXid}
	}
	return nil
}

func oracleRelation(xid uint32, m *pglogrepl.RelationMessage) *Relation {
	rel := &cdc.Relation{OID: m.RelationID, Schema: oracleSchema(m.Namespace), Name: m.RelationName}
	rel.Columns = make([]cdc.Column, len(m.Columns))
	for i, c := range m.Columns {
		rel.Columns[i] = cdc.Column{Name: c.Name, Type: c.DataType, Modifier: c.TypeModifier}
	}
	return &Relation{xid, rel}
}

func oracleSchema(name string) string {
	if name == "" {
		return "pg_catalog"
	}
	return name
}

func oracleRow(tuple *pglogrepl.TupleData) []cdc.Value {
	if tuple == nil {
		return nil
	}
	values := make([]cdc.Value, len(tuple.Columns))
	for i, c := range tuple.Columns {
		values[i] = cdc.Value{Format: cdc.Format(c.DataType), Data: c.Data}
	}
	return values
}

// The generators of random messages.
var (
	names = rapid.StringMatching(`[^\x00]{0,20}`)
	blobs = rapid.SliceOfN(rapid.Byte(), 0, 300)
	xids  = rapid.Uint32Min(1)
	lsns  = rapid.Custom(func(t *rapid.T) cdc.LSN { return cdc.LSN(rapid.Uint64().Draw(t, "lsn")) })
	times = rapid.Custom(func(t *rapid.T) time.Time {
		// What pglogrepl can tell: nanoseconds since 1970 in 64 bits.
		return time.UnixMicro(rapid.Int64Range(-9e15, 9e15).Draw(t, "time")).UTC()
	})
	values = rapid.Custom(func(t *rapid.T) cdc.Value {
		v := cdc.Value{Format: rapid.SampledFrom([]cdc.Format{cdc.Null, cdc.Unchanged, cdc.Text, cdc.Binary}).Draw(t, "format")}
		if v.Format == cdc.Text || v.Format == cdc.Binary {
			v.Data = blobs.Draw(t, "data")
		}
		return v
	})
	columns = rapid.Custom(func(t *rapid.T) cdc.Column {
		return cdc.Column{Name: names.Draw(t, "column"), Type: rapid.Uint32().Draw(t, "type"), Modifier: rapid.Int32().Draw(t, "modifier")}
	})
	tuples       = rapid.SliceOfN(values, 1, 20)
	schemas      = rapid.Custom(func(t *rapid.T) string { return oracleSchema(names.Draw(t, "schema")) })
	transactions = rapid.Custom(func(t *rapid.T) cdc.Transaction {
		return cdc.Transaction{XID: xids.Draw(t, "xid"), CommitLSN: lsns.Draw(t, "commit"), CommitTime: times.Draw(t, "time")}
	})
)

// drawChange returns a message that may come in a stream block, where its XID
// is not zero.
func drawChange(t *rapid.T, xid uint32) Message {
	id := rapid.Uint32().Draw(t, "id")
	keyOnly := rapid.Bool().Draw(t, "key only")
	switch rapid.IntRange(0, 6).Draw(t, "change") {
	case 0:
		return &Relation{xid, &cdc.Relation{
			OID: id, Schema: schemas.Draw(t, "schema"), Name: names.Draw(t, "name"),
			Columns: rapid.SliceOfN(columns, 0, 20).Draw(t, "columns"),
		}}
	case 1:
		return &Type{xid, id, schemas.Draw(t, "schema"), names.Draw(t, "name")}
	case 2:
		old := rapid.SliceOfN(values, 0, 20).Draw(t, "old")
		return &Update{xid, id, old, keyOnly && len(old) > 0, tuples.Draw(t, "new")}
	case 3:
		return &Delete{xid, id, tuples.Draw(t, "old"), keyOnly}
	case 4:
		return &Truncate{xid, rapid.SliceOfN(rapid.Uint32(), 1, 9).Draw(t, "ids"), keyOnly, rapid.Bool().Draw(t, "restart")}
	case 5:
		return &LogicalMessage{xid, keyOnly, lsns.Draw(t, "lsn"), []byte(names.Draw(t, "prefix")), blobs.Draw(t, "content")}
	default:
		return &Insert{xid, id, tuples.Draw(t, "row")}
	}
}

// drawTransaction returns a message that comes outside of stream blocks.
func drawTransaction(t *rapid.T) Message {
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		return &Begin{transactions.Draw(t, "begin")}
	case 1:
		return &Commit{lsns.Draw(t, "commit"), lsns.Draw(t, "end"), times.Draw(t, "time")}
	case 2:
		return &StreamCommit{transactions.Draw(t, "stream commit"), lsns.Draw(t, "end")}
	case 3:
		return &StreamAbort{xids.Draw(t, "xid"), xids.Draw(t, "subxid")}
	default:
		return &StreamStart{xids.Draw(t, "xid"), rapid.Bool().Draw(t, "first")}
	}
}

func drawMessage(t *rapid.T, inStream bool) Message {
	switch n := rapid.IntRange(0, 9).Draw(t, "message"); {
	case n == 0:
		return &Origin{lsns.Draw(t, "origin"), []byte(names.Draw(t, "name"))}
	case n == 1 && inStream:
		return &StreamStop{}
	case n < 4 && !inStream:
		return drawTransaction(t)
	case inStream:
		return drawChange(t, xids.Draw(t, "change xid"))
	default:
		return drawChange(t, 0)
	}
}

// Any valid stream is decoded as it was meant, and as pglogrepl reads it.
func TestDecodeAgreesWithOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d, aside Decoder
		for range rapid.IntRange(1, 30).Draw(t, "messages") {
			inStream := d.InStream()
			want := drawMessage(t, inStream)
			data := encode(want)
			theirs, err := oracle(data, inStream)
			if err != nil || !same(theirs, want) {
				t.Fatalf("oracle: %+v, %v, want %+v", theirs, err, want)
			}
			ours, err := d.Decode(data)
			if err != nil || !same(ours, want) {
				t.Fatalf("Decode = %+v, %v, want %+v", ours, err, want)
			}
			if !inStream {
				continue
			}
			if later, err := aside.DecodeStreamed(data); err != nil || !same(later, want) {
				t.Fatalf("DecodeStreamed = %+v, %v, want %+v", later, err, want)
			}
			if kind, xid, err := PeekStreamed(data); err != nil || kind != Kind(data[0]) || xid != xidOf(want) {
				t.Fatalf("PeekStreamed = %v, %d, %v, want %d", kind, xid, err, xidOf(want))
			}
		}
	})
}
