package freelist

import (
	"math/bits"
	"slices"
	"sync"
)

const (
	// MaxBuffer is the largest capacity of a buffer that is kept. Larger payloads are
	// rare, and keeping their buffers would hold memory for nothing.
	MaxBuffer = 64 << 10

	minBuffer = 64
	classes   = 16*4 + 1 // as many as classOf(MaxBuffer) and one

	// lookahead is how many classes above the one asked for are looked into: a buffer is
	// at the most twice as large as it has to be.
	lookahead = 4
)

// Buffers holds buffers that nobody uses, of all sizes, so that large ones are there for
// what is large and are not held by what is small. Where it is full what there is most of
// gives way to what comes: so it follows the sizes that are in use. All methods may be
// called from any goroutine. The zero value keeps nothing.
type Buffers struct {
	// Max is how many bytes are kept at the most. It must not change once b is used.
	Max int

	mu    sync.Mutex
	kept  [classes]bufferClass // guarded by mu
	bytes int                  // guarded by mu; of all that is kept
}

// bufferClass is buffers of nearly one capacity.
type bufferClass struct {
	kept  [][]byte
	bytes int
}

func (c *bufferClass) pop() []byte {
	n := len(c.kept) - 1
	buf := c.kept[n]
	c.kept[n] = nil
	c.kept = c.kept[:n]
	c.bytes -= cap(buf)
	return buf
}

// Get returns an empty buffer with a capacity of at least n, a kept one or a new one.
func (b *Buffers) Get(n int) []byte {
	n = max(n, minBuffer)
	if n > MaxBuffer {
		return make([]byte, 0, n)
	}
	class := classOf(n)
	if sizeOf(class) < n {
		class++
	}
	if buf := b.take(class); buf != nil {
		return buf
	}
	return slices.Grow([]byte(nil), sizeOf(class))
}

func (b *Buffers) take(class int) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := class; i < min(class+lookahead+1, classes); i++ {
		if len(b.kept[i].kept) > 0 {
			buf := b.kept[i].pop()
			b.bytes -= cap(buf)
			return buf
		}
	}
	return nil
}

// Put keeps buf for Get, or drops it if it is too large or too small. The caller must not
// use buf after that.
func (b *Buffers) Put(buf []byte) {
	n := cap(buf)
	if n < minBuffer || n > min(MaxBuffer, b.Max) {
		return
	}
	own := &b.kept[classOf(n)]
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.bytes+n > b.Max {
		most := b.most()
		if most == own {
			return
		}
		b.bytes -= cap(most.pop())
	}
	b.bytes += n
	own.bytes += n
	own.kept = append(own.kept, buf[:0])
}

// most is the class that holds the most bytes.
func (b *Buffers) most() *bufferClass {
	most := &b.kept[0]
	for i := range b.kept {
		if b.kept[i].bytes > most.bytes {
			most = &b.kept[i]
		}
	}
	return most
}

// classOf is the class of the buffers with a capacity of n, four to each doubling. All in
// it have at least sizeOf.
func classOf(n int) int {
	doublings := bits.Len(uint(n)) - 1
	return 4*doublings + n>>(doublings-2)&3
}

func sizeOf(class int) int { return (4 + class%4) << (class/4 - 2) }
