package pgoutput

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// xLogDataHeader is the size of what comes before an XLogData's Data.
const xLogDataHeader = 1 + 8 + 8 + 8

// XLogData carries one message.
type XLogData struct {
	// WALStart is where a change lies in WAL, and where a commit record ends.
	// It is zero if another message about the same place follows, as a change
	// does its Relation.
	WALStart   cdc.LSN
	WALEnd     cdc.LSN // a walsender that decodes repeats WALStart
	ServerTime time.Time
	Data       []byte // part of the input
}

// DecodeXLogData decodes the data of a CopyData that begins with KindXLogData.
// It does not look into Data. It allocates nothing; errors are of type
// [*SyntaxError].
func DecodeXLogData(data []byte) (XLogData, error) {
	if err := checkEnvelope(data, KindXLogData, xLogDataHeader); err != nil {
		return XLogData{}, err
	}
	return XLogData{
		WALStart:   cdc.LSN(binary.BigEndian.Uint64(data[1:])),
		WALEnd:     cdc.LSN(binary.BigEndian.Uint64(data[9:])),
		ServerTime: fromMicroseconds(binary.BigEndian.Uint64(data[17:])),
		Data:       data[xLogDataHeader:len(data):len(data)],
	}, nil
}

// PrimaryKeepalive is the server's sign of life.
type PrimaryKeepalive struct {
	WALEnd         cdc.LSN // everything that committed before has been sent
	ServerTime     time.Time
	ReplyRequested bool // the server disconnects unless it hears soon
}

// DecodePrimaryKeepalive decodes the data of a CopyData that begins with
// KindPrimaryKeepalive. It allocates nothing; errors are of type
// [*SyntaxError].
func DecodePrimaryKeepalive(data []byte) (PrimaryKeepalive, error) {
	if err := checkEnvelope(data, KindPrimaryKeepalive, 1); err != nil {
		return PrimaryKeepalive{}, err
	}
	r := newReader(data)
	m := PrimaryKeepalive{WALEnd: r.lsn(), ServerTime: r.time(), ReplyRequested: r.bool()}
	if err := r.finish(); err != nil {
		return PrimaryKeepalive{}, err
	}
	return m, nil
}

// checkEnvelope returns an error unless data is of a kind and has at least size
// bytes, one of which is the kind.
func checkEnvelope(data []byte, kind Kind, size int) error {
	switch {
	case len(data) < size:
		return &SyntaxError{Kind: kind, Offset: len(data), Reason: fmt.Sprintf("want %d bytes, have %d", size, len(data))}
	case Kind(data[0]) != kind:
		return &SyntaxError{Kind: kind, Reason: fmt.Sprintf("have %s", Kind(data[0]))}
	}
	return nil
}
