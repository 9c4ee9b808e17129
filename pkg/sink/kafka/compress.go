package kafka

import (
	"bytes"
	"sync"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lz4Block is how much a block of a compressed batch holds. The client library's own
// compressor takes the format's largest, 4 MiB, and two buffers of that size for each
// batch that is being written, where a batch has 1 MB at most as a rule. A block cannot
// refer to more than 64 KiB back, so that larger ones gain little; Java's client has
// 64 KiB.
// https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md
const lz4Block = lz4.Block256Kb

// compression is the option for a codec, one of codecs.
func compression(name string) kgo.ProducerOpt {
	if name == "lz4" {
		return kgo.WithCompressor(newLZ4())
	}
	return kgo.ProducerBatchCompression(codecs[name]())
}

const (
	// worthwhile is the part of a batch that must be saved, one in so many bytes. What
	// saves less, as what is encrypted or compressed already, costs more CPU than all else
	// that is done with an event.
	worthwhile = 10

	// maxUntried is how many batches are sent as they are, at the most, before one is
	// compressed again to see whether that has become worthwhile.
	maxUntried = 64
)

// lz4Compressor implements [kgo.Compressor].
type lz4Compressor struct {
	writers sync.Pool

	mu      sync.Mutex
	untried int // batches that are still to be sent as they are; guarded by mu
	fails   int // in a row, that were not worthwhile; guarded by mu
}

func newLZ4() *lz4Compressor {
	c := new(lz4Compressor)
	c.writers.New = func() any {
		w := lz4.NewWriter(nil)
		// A batch has a checksum of its own, over what is compressed.
		_ = w.Apply(lz4.BlockSizeOption(lz4Block), lz4.ChecksumOption(false)) // constants that it takes
		return w
	}
	return c
}

// Compress implements [kgo.Compressor]. A result of nil sends the batch as it is.
func (c *lz4Compressor) Compress(dst *bytes.Buffer, src []byte, _ ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	if c.skip() {
		return nil, kgo.CodecNone
	}
	w := c.writers.Get().(*lz4.Writer)
	defer c.writers.Put(w)
	w.Reset(dst)
	if _, err := w.Write(src); err != nil {
		return nil, kgo.CodecError
	}
	if err := w.Close(); err != nil {
		return nil, kgo.CodecError
	}
	c.judge(len(src), dst.Len())
	return dst.Bytes(), kgo.CodecLz4
}

// skip reports whether the next batch is not worth a try.
func (c *lz4Compressor) skip() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.untried == 0 {
		return false
	}
	c.untried--
	return true
}

// judge notes what a batch has come to. Small ones say little: they have nothing to repeat.
func (c *lz4Compressor) judge(before, after int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case before-after >= before/worthwhile:
		c.fails = 0
	case before >= minJudged:
		c.fails++
		c.untried = min(1<<min(c.fails, 10), maxUntried)
	}
}

// minJudged is the size in bytes from which on a batch says something.
const minJudged = 16 << 10
