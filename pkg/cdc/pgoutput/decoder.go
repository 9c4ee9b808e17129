package pgoutput

import (
	"slices"

	"github.com/walpost/walpost/pkg/cdc"
)

// Decoder decodes the messages of one replication connection, in the order in
// which they come. The zero value is ready. It allocates nothing for a message,
// once it has seen the widest, except for [*Relation] and [*Type].
//
// A Message points into the Decoder, and is valid until the next one is
// decoded. The bytes in it are those of the input, and valid as long.
//
// A Decoder must not be used by two goroutines at once.
type Decoder struct {
	inStream bool

	begin        Begin
	commit       Commit
	origin       Origin
	typ          Type
	insert       Insert
	update       Update
	delete       Delete
	truncate     Truncate
	logical      LogicalMessage
	streamStart  StreamStart
	streamStop   StreamStop
	streamCommit StreamCommit
	streamAbort  StreamAbort
}

// InStream reports whether a stream block is open: whether the last of
// [*StreamStart] and [*StreamStop] that Decode returned was a StreamStart.
func (d *Decoder) InStream() bool { return d.inStream }

// Decode decodes one message, which is the whole Data of an [XLogData]. Errors
// are of type [*SyntaxError], and leave InStream as it was.
func (d *Decoder) Decode(data []byte) (Message, error) {
	m, err := d.decode(data, d.inStream)
	if err != nil {
		return nil, err
	}
	switch Kind(data[0]) {
	case KindStreamStart:
		d.inStream = true
	case KindStreamStop:
		d.inStream = false
	}
	return m, nil
}

// DecodeStreamed is Decode for a message that came in a stream block and was
// put aside. It neither needs nor changes InStream.
func (d *Decoder) DecodeStreamed(data []byte) (Message, error) {
	return d.decode(data, true)
}

// PeekStreamed returns the kind of a message that came in a stream block, and
// the XID that a decoded message would have. It looks at nothing else. XID is
// zero for the kinds that carry none there: Origin and Stream Stop.
func PeekStreamed(data []byte) (kind Kind, xid uint32, err error) {
	r := newReader(data)
	r.streamed = true
	r.checkPlace()
	if r.kind != KindOrigin && r.kind != KindStreamStop {
		xid = r.changeXID()
	}
	if r.err != nil {
		return 0, 0, r.err
	}
	return r.kind, xid, nil
}

func (d *Decoder) decode(data []byte, streamed bool) (Message, error) {
	r := newReader(data)
	r.streamed = streamed
	r.checkPlace()
	m := d.message(&r)
	if err := r.finish(); err != nil {
		return nil, err
	}
	return m, nil
}

// checkPlace fails for a kind that is unknown, or that cannot come where the
// reader is: stream blocks neither nest nor mix with other transactions.
func (r *reader) checkPlace() {
	switch r.kind {
	case KindInsert, KindRelation, KindType, KindUpdate, KindDelete, KindTruncate, KindLogical, KindOrigin:
	case KindStreamStop:
		if !r.streamed {
			r.fail(0, "no stream block is open")
		}
	case KindBegin, KindCommit, KindStreamStart, KindStreamCommit, KindStreamAbort:
		if r.streamed {
			r.fail(0, "a stream block is open")
		}
	default:
		r.fail(0, "unknown kind")
	}
}

// message reads the fields of r.kind.
func (d *Decoder) message(r *reader) Message {
	switch r.kind {
	case KindInsert:
		return d.readInsert(r)
	case KindBegin:
		return d.readBegin(r)
	case KindCommit:
		return d.readCommit(r)
	case KindOrigin:
		return d.readOrigin(r)
	case KindRelation:
		return readRelation(r)
	case KindType:
		return d.readType(r)
	case KindUpdate:
		return d.readUpdate(r)
	case KindDelete:
		return d.readDelete(r)
	case KindTruncate:
		return d.readTruncate(r)
	case KindLogical:
		return d.readLogical(r)
	case KindStreamStart:
		return d.readStreamStart(r)
	case KindStreamCommit:
		return d.readStreamCommit(r)
	case KindStreamAbort:
		return d.readStreamAbort(r)
	case KindStreamStop:
		return &d.streamStop
	default:
		return nil // checkPlace has failed
	}
}

func (d *Decoder) readBegin(r *reader) *Begin {
	d.begin.CommitLSN = r.lsn()
	d.begin.CommitTime = r.time()
	d.begin.XID = r.xid()
	return &d.begin
}

func (d *Decoder) readCommit(r *reader) *Commit {
	r.noFlags()
	d.commit = Commit{CommitLSN: r.lsn(), EndLSN: r.lsn(), CommitTime: r.time()}
	return &d.commit
}

func (d *Decoder) readOrigin(r *reader) *Origin {
	d.origin = Origin{CommitLSN: r.lsn(), Name: r.cstring()}
	return &d.origin
}

// minColumn is the size of a column in a Relation whose name is empty.
const minColumn = 1 + 1 + 4 + 4

// readRelation skips what only changes of existing rows need: the replica
// identity, and the flag that says whether a column is part of it.
func readRelation(r *reader) *Relation {
	m := &Relation{XID: r.changeXID(), Relation: &cdc.Relation{OID: r.uint32()}}
	m.Relation.Schema = r.namespace()
	m.Relation.Name = string(r.cstring())
	r.uint8()
	n := r.count(uint32(r.uint16()), minColumn)
	m.Relation.Columns = make([]cdc.Column, n)
	for i := range m.Relation.Columns {
		r.uint8()
		m.Relation.Columns[i] = cdc.Column{Name: string(r.cstring()), Type: r.uint32(), Modifier: int32(r.uint32())}
	}
	return m
}

func (d *Decoder) readType(r *reader) *Type {
	d.typ = Type{XID: r.changeXID(), OID: r.uint32(), Schema: r.namespace(), Name: string(r.cstring())}
	return &d.typ
}

func (d *Decoder) readInsert(r *reader) *Insert {
	m := &d.insert
	m.XID = r.changeXID()
	m.RelationID = r.uint32()
	r.tag("N")
	m.Values = r.tuple(m.Values)
	return m
}

func (d *Decoder) readUpdate(r *reader) *Update {
	m := &d.update
	m.XID = r.changeXID()
	m.RelationID = r.uint32()
	tag := r.tag("NKO")
	m.Old, m.KeyOnly = m.Old[:0], tag == 'K'
	if tag != 'N' {
		m.Old = r.tuple(m.Old)
		r.tag("N")
	}
	m.New = r.tuple(m.New)
	return m
}

func (d *Decoder) readDelete(r *reader) *Delete {
	m := &d.delete
	m.XID = r.changeXID()
	m.RelationID = r.uint32()
	m.KeyOnly = r.tag("KO") == 'K'
	m.Old = r.tuple(m.Old)
	return m
}

// The flags of a Truncate.
const (
	flagCascade         = 1
	flagRestartIdentity = 2
)

func (d *Decoder) readTruncate(r *reader) *Truncate {
	m := &d.truncate
	m.XID = r.changeXID()
	claimed := r.uint32()
	flags := r.uint8()
	m.Cascade, m.RestartIdentity = flags&flagCascade != 0, flags&flagRestartIdentity != 0
	n := r.count(claimed, 4)
	m.RelationIDs = slices.Grow(m.RelationIDs[:0], n)[:n]
	for i := range m.RelationIDs {
		m.RelationIDs[i] = r.uint32()
	}
	return m
}

func (d *Decoder) readLogical(r *reader) *LogicalMessage {
	d.logical = LogicalMessage{
		XID:           r.changeXID(),
		Transactional: r.bool(),
		LSN:           r.lsn(),
		Prefix:        r.cstring(),
		Content:       r.counted(),
	}
	return &d.logical
}

func (d *Decoder) readStreamStart(r *reader) *StreamStart {
	d.streamStart = StreamStart{XID: r.xid(), First: r.bool()}
	return &d.streamStart
}

func (d *Decoder) readStreamCommit(r *reader) *StreamCommit {
	m := &d.streamCommit
	m.XID = r.xid()
	r.noFlags()
	m.CommitLSN = r.lsn()
	m.EndLSN = r.lsn()
	m.CommitTime = r.time()
	return m
}

func (d *Decoder) readStreamAbort(r *reader) *StreamAbort {
	d.streamAbort = StreamAbort{XID: r.xid(), SubXID: r.xid()}
	return &d.streamAbort
}
