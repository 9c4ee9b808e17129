package kafka

import (
	"github.com/twmb/franz-go/pkg/kbin"

	"github.com/walpost/walpost/pkg/cdc"
)

const (
	// batchOverhead is a record batch of format 2 without records, and the
	// length in front of it, which the client library counts too.
	// https://kafka.apache.org/documentation/#recordbatch
	batchOverhead = 61 + 4

	// recordOverhead stands for what a record takes in memory beside its
	// bytes: the record itself, the client library's, and the maps and
	// slices that lead to them.
	recordOverhead = 640

	// headerOverhead is the same for a header.
	headerOverhead = 80
)

// batchSize returns the uncompressed size of a batch that holds only r, which
// is what the client library compares with a topic's limit.
func batchSize(r *cdc.Record) int {
	n := 1 + 1 + 1 // attributes, timestamp delta 0, offset delta 0
	n += bytesSize(r.Key) + bytesSize(r.Value)
	n += varintSize(len(r.Headers))
	for i := range r.Headers {
		h := &r.Headers[i]
		n += varintSize(len(h.Key)) + len(h.Key) + bytesSize(h.Value)
	}
	return batchOverhead + varintSize(n) + n
}

// bytesSize returns the size of nullable bytes with their length.
func bytesSize(b []byte) int {
	if b == nil {
		return 1
	}
	return varintSize(len(b)) + len(b)
}

func varintSize(n int) int { return kbin.VarintLen(int32(n)) }

// footprint returns the bytes of memory that r stands for while in flight.
func footprint(r *cdc.Record) int64 {
	n := recordOverhead + len(r.Key) + len(r.Value) + headerOverhead*len(r.Headers)
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return int64(n)
}
