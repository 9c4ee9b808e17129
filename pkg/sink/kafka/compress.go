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

// lz4Compressor implements [kgo.Compressor].
type lz4Compressor struct{ writers sync.Pool }

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

// Compress implements [kgo.Compressor].
func (c *lz4Compressor) Compress(dst *bytes.Buffer, src []byte, _ ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	w := c.writers.Get().(*lz4.Writer)
	defer c.writers.Put(w)
	w.Reset(dst)
	if _, err := w.Write(src); err != nil {
		return nil, kgo.CodecError
	}
	if err := w.Close(); err != nil {
		return nil, kgo.CodecError
	}
	return dst.Bytes(), kgo.CodecLz4
}
