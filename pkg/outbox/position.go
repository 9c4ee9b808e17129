package outbox

import (
	"context"
	"strconv"

	"github.com/walpost/walpost/pkg/cdc"
)

// PositionHeaders returns a sink that adds two headers behind all others and
// hands the record on to sink: walpost-lsn, the LSN of the transaction's commit
// as Postgres prints it, and walpost-seq, the row's place among the rows of the
// transaction that are published, counted from 1. Both are the same each time
// that the event is delivered.
//
// It is a sink, and not a setting of the [Router], because a record learns its
// position only after it was routed.
func PositionHeaders(sink cdc.Sink) cdc.Sink { return positionSink{sink} }

type positionSink struct{ cdc.Sink }

func (s positionSink) Produce(ctx context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	n := len(r.Headers)
	start := len(r.Buf)
	r.Buf = appendLSN(r.Buf, r.CommitLSN)
	middle := len(r.Buf)
	r.Buf = strconv.AppendInt(r.Buf, r.Ordinal, 10)
	r.Headers = append(r.Headers,
		cdc.Header{Key: HeaderLSN, Value: r.Buf[start:middle:middle]},
		cdc.Header{Key: HeaderSeq, Value: r.Buf[middle:]})
	err := s.Sink.Produce(ctx, r, done)
	if err != nil {
		r.Headers = r.Headers[:n] // not taken: as it came
	}
	return err
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
