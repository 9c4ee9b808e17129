package pgoutput

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/walpost/walpost/pkg/cdc"
)

// The binary format of COPY.
// https://www.postgresql.org/docs/current/sql-copy.html
const (
	copySignature = "PGCOPY\n\xff\r\n\x00"
	copyHeader    = len(copySignature) + 4 + 4 // flags, and the length of an extension

	// copyRow is the size of a row (lsn pg_lsn, data bytea) without the data:
	// the number of fields, two lengths, and the LSN.
	copyRow = 2 + 4 + 8 + 4
)

// DecodeCopyRow decodes the data of a CopyData of COPY (SELECT lsn, data ...) TO
// STDOUT (FORMAT binary), whose rows are what pg_logical_slot_get_binary_changes
// returns. The server sends each row in a message of its own, the first with the
// format's header before it. ok is false for what is no row: the header alone and
// the trailer.
//
// The WALStart and Data of x are the row's; Data is part of the input. It
// allocates nothing; errors are of type [*SyntaxError].
func DecodeCopyRow(data []byte) (x XLogData, ok bool, err error) {
	if bytes.HasPrefix(data, []byte(copySignature)) {
		if len(data) < copyHeader {
			return XLogData{}, false, copyError(len(data), "want a header of %d bytes, have %d", copyHeader, len(data))
		}
		if n := binary.BigEndian.Uint32(data[copyHeader-4:]); n != 0 {
			return XLogData{}, false, copyError(copyHeader-4, "unknown header extension of %d bytes", n)
		}
		data = data[copyHeader:]
		if len(data) == 0 {
			return XLogData{}, false, nil
		}
	}
	switch {
	case len(data) == 2 && data[0] == 0xff && data[1] == 0xff:
		return XLogData{}, false, nil
	case len(data) < copyRow:
		return XLogData{}, false, copyError(len(data), "want a row of at least %d bytes, have %d", copyRow, len(data))
	}
	fields, lsnSize, size := binary.BigEndian.Uint16(data), binary.BigEndian.Uint32(data[2:]), binary.BigEndian.Uint32(data[14:])
	switch {
	case fields != 2 || lsnSize != 8:
		return XLogData{}, false, copyError(0, "want 2 fields with an LSN of 8 bytes, have %d with one of %d", fields, lsnSize)
	case uint64(size) != uint64(len(data)-copyRow):
		return XLogData{}, false, copyError(14, "want data of %d bytes, have %d", len(data)-copyRow, size)
	case size == 0:
		return XLogData{}, false, copyError(copyRow, "the message is empty")
	}
	return XLogData{WALStart: cdc.LSN(binary.BigEndian.Uint64(data[6:])), Data: data[copyRow:len(data):len(data)]}, true, nil
}

func copyError(offset int, format string, args ...any) error {
	return &SyntaxError{Kind: KindCopyRow, Offset: offset, Reason: fmt.Sprintf(format, args...)}
}
