package outbox

import (
	"strconv"

	"github.com/walpost/walpost/pkg/cdc"
)

// maxPosition is the most bytes that the values of the position's headers take.
const maxPosition = len("FFFFFFFF/FFFFFFFF") + len("9223372036854775807")

// addPosition adds the headers that [Config.PositionHeaders] asks for. There is
// room for their values in rec.Buf.
func addPosition(rec *cdc.Record, ev *cdc.Event) {
	start := len(rec.Buf)
	rec.Buf = appendLSN(rec.Buf, ev.Transaction.CommitLSN)
	middle := len(rec.Buf)
	rec.Buf = strconv.AppendInt(rec.Buf, ev.Ordinal, 10)
	rec.Headers = append(rec.Headers,
		cdc.Header{Key: HeaderLSN, Value: rec.Buf[start:middle:middle]},
		cdc.Header{Key: HeaderSeq, Value: rec.Buf[middle:]})
}

// appendLSN appends what [cdc.LSN.String] returns.
func appendLSN(dst []byte, lsn cdc.LSN) []byte {
	start := len(dst)
	dst = append(strconv.AppendUint(dst, uint64(lsn>>32), 16), '/')
	dst = strconv.AppendUint(dst, uint64(uint32(lsn)), 16)
	for i, c := range dst[start:] {
		if c >= 'a' {
			dst[start+i] = c - 'a' + 'A'
		}
	}
	return dst
}
