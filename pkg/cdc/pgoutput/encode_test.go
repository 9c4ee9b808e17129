package pgoutput

import (
	"encoding/binary"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// encoder writes messages as a server does. The XID of a change is written
// unless it is zero.
type encoder struct{ buf []byte }

func (e *encoder) u8(v uint8)       { e.buf = append(e.buf, v) }
func (e *encoder) u16(v uint16)     { e.buf = binary.BigEndian.AppendUint16(e.buf, v) }
func (e *encoder) u32(v uint32)     { e.buf = binary.BigEndian.AppendUint32(e.buf, v) }
func (e *encoder) u64(v uint64)     { e.buf = binary.BigEndian.AppendUint64(e.buf, v) }
func (e *encoder) lsn(v cdc.LSN)    { e.u64(uint64(v)) }
func (e *encoder) cstring(s string) { e.buf = append(append(e.buf, s...), 0) }

func (e *encoder) time(t time.Time) {
	e.u64(uint64(t.UnixMicro() - time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()))
}

func (e *encoder) bool(v bool) {
	if v {
		e.u8(1)
	} else {
		e.u8(0)
	}
}

func (e *encoder) kind(k Kind, xid uint32) {
	e.u8(byte(k))
	if xid != 0 {
		e.u32(xid)
	}
}

func (e *encoder) schema(s string) {
	if s == "pg_catalog" {
		s = ""
	}
	e.cstring(s)
}

func (e *encoder) counted(b []byte) {
	e.u32(uint32(len(b)))
	e.buf = append(e.buf, b...)
}

func (e *encoder) tuple(tag byte, values []cdc.Value) {
	e.u8(tag)
	e.u16(uint16(len(values)))
	for _, v := range values {
		e.u8(byte(v.Format))
		if v.Format == cdc.Text || v.Format == cdc.Binary {
			e.counted(v.Data)
		}
	}
}

func (e *encoder) old(keyOnly bool, values []cdc.Value) {
	if keyOnly {
		e.tuple('K', values)
	} else {
		e.tuple('O', values)
	}
}

func (e *encoder) relation(m *Relation) {
	e.kind(KindRelation, m.XID)
	e.u32(m.Relation.OID)
	e.schema(m.Relation.Schema)
	e.cstring(m.Relation.Name)
	e.u8('d')
	e.u16(uint16(len(m.Relation.Columns)))
	for i, c := range m.Relation.Columns {
		e.bool(i == 0) // the first column is the key
		e.cstring(c.Name)
		e.u32(c.Type)
		e.u32(uint32(c.Modifier))
	}
}

func (e *encoder) truncate(m *Truncate) {
	e.kind(KindTruncate, m.XID)
	e.u32(uint32(len(m.RelationIDs)))
	var flags uint8
	if m.Cascade {
		flags |= 1
	}
	if m.RestartIdentity {
		flags |= 2
	}
	e.u8(flags)
	for _, id := range m.RelationIDs {
		e.u32(id)
	}
}

func (e *encoder) commit(commitLSN, endLSN cdc.LSN, at time.Time) {
	e.u8(0)
	e.lsn(commitLSN)
	e.lsn(endLSN)
	e.time(at)
}

func encode(m Message) []byte {
	var e encoder
	switch m := m.(type) {
	case *Begin:
		e.kind(KindBegin, 0)
		e.lsn(m.CommitLSN)
		e.time(m.CommitTime)
		e.u32(m.XID)
	case *Commit:
		e.kind(KindCommit, 0)
		e.commit(m.CommitLSN, m.EndLSN, m.CommitTime)
	case *Origin:
		e.kind(KindOrigin, 0)
		e.lsn(m.CommitLSN)
		e.cstring(string(m.Name))
	case *Relation:
		e.relation(m)
	case *Type:
		e.kind(KindType, m.XID)
		e.u32(m.OID)
		e.schema(m.Schema)
		e.cstring(m.Name)
	case *Truncate:
		e.truncate(m)
	case *LogicalMessage:
		e.kind(KindLogical, m.XID)
		e.bool(m.Transactional)
		e.lsn(m.LSN)
		e.cstring(string(m.Prefix))
		e.counted(m.Content)
	default:
		e.rowOrStream(m)
	}
	return e.buf
}

func (e *encoder) rowOrStream(m Message) {
	switch m := m.(type) {
	case *Insert:
		e.kind(KindInsert, m.XID)
		e.u32(m.RelationID)
		e.tuple('N', m.Values)
	case *Update:
		e.kind(KindUpdate, m.XID)
		e.u32(m.RelationID)
		if len(m.Old) > 0 {
			e.old(m.KeyOnly, m.Old)
		}
		e.tuple('N', m.New)
	case *Delete:
		e.kind(KindDelete, m.XID)
		e.u32(m.RelationID)
		e.old(m.KeyOnly, m.Old)
	case *StreamStart:
		e.kind(KindStreamStart, m.XID)
		e.bool(m.First)
	case *StreamStop:
		e.kind(KindStreamStop, 0)
	case *StreamCommit:
		e.kind(KindStreamCommit, m.XID)
		e.commit(m.CommitLSN, m.EndLSN, m.CommitTime)
	case *StreamAbort:
		e.kind(KindStreamAbort, m.XID)
		e.u32(m.SubXID)
	}
}
