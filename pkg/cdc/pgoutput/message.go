// Package pgoutput decodes what Postgres' built-in output plugin sends: the
// messages of protocol versions 1 and 2, with streaming of transactions in
// progress, in text and in binary, and the envelope they travel in. It is
// pure: bytes in, message or error out.
//
// https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
// https://www.postgresql.org/docs/current/protocol-replication.html
package pgoutput

import (
	"fmt"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// Kind is a message's first byte.
type Kind byte

// The kinds of messages. Prepared transactions, which come only if
// asked for, are not among them.
const (
	KindBegin        Kind = 'B'
	KindCommit       Kind = 'C'
	KindOrigin       Kind = 'O'
	KindRelation     Kind = 'R'
	KindType         Kind = 'Y'
	KindInsert       Kind = 'I'
	KindUpdate       Kind = 'U'
	KindDelete       Kind = 'D'
	KindTruncate     Kind = 'T'
	KindLogical      Kind = 'M'
	KindStreamStart  Kind = 'S'
	KindStreamStop   Kind = 'E'
	KindStreamCommit Kind = 'c'
	KindStreamAbort  Kind = 'A'

	// The envelope's kinds.
	KindXLogData         Kind = 'w'
	KindPrimaryKeepalive Kind = 'k'

	// KindCopyRow is a row of COPY. It has no such byte: this is that of the
	// CopyData around it.
	KindCopyRow Kind = 'd'
)

var kindNames = map[Kind]string{
	KindBegin:            "Begin",
	KindCommit:           "Commit",
	KindOrigin:           "Origin",
	KindRelation:         "Relation",
	KindType:             "Type",
	KindInsert:           "Insert",
	KindUpdate:           "Update",
	KindDelete:           "Delete",
	KindTruncate:         "Truncate",
	KindLogical:          "Message",
	KindStreamStart:      "Stream Start",
	KindStreamStop:       "Stream Stop",
	KindStreamCommit:     "Stream Commit",
	KindStreamAbort:      "Stream Abort",
	KindXLogData:         "XLogData",
	KindPrimaryKeepalive: "Primary Keepalive",
	KindCopyRow:          "COPY row",
}

// String returns the name that the Postgres documentation uses.
func (k Kind) String() string {
	if name, ok := kindNames[k]; ok {
		return name
	}
	return fmt.Sprintf("message %q", rune(k))
}

// Message is one of [*Begin], [*Commit], [*Origin], [*Relation], [*Type],
// [*Insert], [*Update], [*Delete], [*Truncate], [*LogicalMessage],
// [*StreamStart], [*StreamStop], [*StreamCommit] and [*StreamAbort].
type Message interface{ message() }

// Begin opens a transaction, which is then sent whole, up to its Commit.
type Begin struct{ cdc.Transaction }

// Commit ends what Begin opened.
type Commit struct {
	CommitLSN  cdc.LSN // where the commit record begins, as in Begin
	EndLSN     cdc.LSN // where it ends: what to confirm
	CommitTime time.Time
}

// Origin says that the transaction was replicated from elsewhere. In a stream
// block it carries no XID.
type Origin struct {
	CommitLSN cdc.LSN // on the origin server
	Name      []byte
}

// Relation describes a table. It comes before the table's first change, and
// again after the server's caches were invalidated. Relation and all it holds
// are fresh, and may be kept.
type Relation struct {
	XID      uint32 // as in Insert
	Relation *cdc.Relation
}

// Type names a column's type that is not built in.
type Type struct {
	XID          uint32 // as in Insert
	OID          uint32
	Schema, Name string
}

// Insert is an inserted row.
type Insert struct {
	// XID is the transaction that made the change, which may be a
	// subtransaction of the one that is streamed. Zero outside a stream block.
	XID        uint32
	RelationID uint32
	Values     []cdc.Value
}

// Update is an updated row.
type Update struct {
	XID        uint32 // as in Insert
	RelationID uint32

	// Old is the row as it was, or empty if the server did not send it. With
	// KeyOnly the columns outside of the replica identity are null in it.
	Old     []cdc.Value
	KeyOnly bool

	New []cdc.Value
}

// Delete is a deleted row.
type Delete struct {
	XID        uint32 // as in Insert
	RelationID uint32
	Old        []cdc.Value // as in Update
	KeyOnly    bool
}

// Truncate is one TRUNCATE of published tables.
type Truncate struct {
	XID             uint32 // as in Insert
	RelationIDs     []uint32
	Cascade         bool
	RestartIdentity bool
}

// LogicalMessage is what pg_logical_emit_message wrote. The protocol calls it
// Message.
type LogicalMessage struct {
	// XID is the top-level transaction in a stream block, even if a
	// subtransaction wrote the message: so one from a subtransaction that
	// aborts cannot be told from the others. Zero outside a stream block.
	XID           uint32
	Transactional bool
	LSN           cdc.LSN
	Prefix        []byte
	Content       []byte
}

// StreamStart opens a block of changes of a transaction in progress.
type StreamStart struct {
	XID   uint32 // of the top-level transaction
	First bool   // the transaction's first block
}

// StreamStop ends a block.
type StreamStop struct{}

// StreamCommit commits what was streamed.
type StreamCommit struct {
	cdc.Transaction
	EndLSN cdc.LSN // where the commit record ends: what to confirm
}

// StreamAbort aborts what was streamed: the subtransaction SubXID, or all if
// SubXID is XID.
type StreamAbort struct{ XID, SubXID uint32 }

func (*Begin) message()          {}
func (*Commit) message()         {}
func (*Origin) message()         {}
func (*Relation) message()       {}
func (*Type) message()           {}
func (*Insert) message()         {}
func (*Update) message()         {}
func (*Delete) message()         {}
func (*Truncate) message()       {}
func (*LogicalMessage) message() {}
func (*StreamStart) message()    {}
func (*StreamStop) message()     {}
func (*StreamCommit) message()   {}
func (*StreamAbort) message()    {}
