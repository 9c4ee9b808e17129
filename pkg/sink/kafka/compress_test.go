package kafka

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What the compressor writes, the client library's decompressor reads, also beyond a
// block and when a writer is used again.
func TestLZ4(t *testing.T) {
	c, r := newLZ4(), rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 1000)
	for i := range words {
		words[i] = fmt.Appendf(nil, `{"order": %d}`, r.Uint64())
	}
	for _, size := range []int{0, 1, 300, 256 << 10, 1 << 20, 300} {
		src := make([]byte, size)
		for i := 0; i < size; { // words, of which some come again
			i += copy(src[i:], words[r.IntN(len(words))])
		}
		got, codec := c.Compress(new(bytes.Buffer), src)
		if codec != kgo.CodecLz4 {
			t.Fatalf("%d bytes: codec %d, want lz4", size, codec)
		}
		back, err := kgo.DefaultDecompressor().Decompress(got, codec)
		if err != nil || !bytes.Equal(back, src) {
			t.Errorf("%d bytes: %v, or not what was compressed", size, err)
		}
		if size > 1000 && len(got) > size*3/4 {
			t.Errorf("%d bytes were compressed to %d", size, len(got))
		}
	}
}

// What does not compress is tried ever more seldom, and again as soon as it does.
func TestLZ4GivesUp(t *testing.T) {
	c, r := newLZ4(), rand.New(rand.NewPCG(1, 2))
	random := make([]byte, 64<<10)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	text := bytes.Repeat([]byte(`{"order": 1} `), 10_000)
	tries := func(src []byte, n int) (tried int) {
		for range n {
			if got, _ := c.Compress(new(bytes.Buffer), src); got != nil {
				tried++
			}
		}
		return tried
	}
	if got := tries(random, 1000); got < 5 || got > 30 {
		t.Errorf("1000 batches that do not compress: %d were tried", got)
	}
	if got := tries(text, 200); got < 200-maxUntried {
		t.Errorf("200 batches that compress: %d were", got)
	}
	if got := tries(random[:300], 100); got != 100 {
		t.Errorf("100 small batches: %d were tried, and they say nothing", got)
	}
}

func BenchmarkLZ4(b *testing.B) {
	src := bytes.Repeat([]byte(`{"n": 4711, "pad": "0123456789abcdef"} `), 20_000)
	own := newLZ4()
	theirs, err := kgo.DefaultCompressor(kgo.Lz4Compression())
	if err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]kgo.Compressor{"own": own, "client": theirs} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				c.Compress(new(bytes.Buffer), src)
			}
		})
	}
}
