package freelist

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

func TestBufferClasses(t *testing.T) {
	for n := minBuffer; n <= MaxBuffer; n++ {
		c := classOf(n)
		if sizeOf(c) > n || c+1 < classes && sizeOf(c+1) <= n || c >= classes {
			t.Fatalf("%d is in class %d of %d bytes", n, c, sizeOf(c))
		}
	}
}

// What is got has the room, is nobody else's, and is one that was put where one fits; no
// more is kept than may be.
func TestBuffersHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Buffers{Max: 300_000}
		var used [][]byte
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				n := rapid.IntRange(0, MaxBuffer+100).Draw(t, "n")
				buf := b.Get(n)
				if len(buf) != 0 || cap(buf) < n || n >= minBuffer && n <= MaxBuffer && cap(buf) > 3*n {
					t.Fatalf("%d bytes in one of %d for %d", len(buf), cap(buf), n)
				}
				for _, u := range used {
					if &u[:1][0] == &buf[:1][0] {
						t.Fatal("somebody uses it")
					}
				}
				used = append(used, buf)
			},
			"put": func(t *rapid.T) {
				if len(used) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(used)-1).Draw(t, "i")
				b.Put(used[i])
				used = append(used[:i], used[i+1:]...)
			},
			"": func(t *rapid.T) {
				sum := 0
				for i := range b.kept {
					class := 0
					for _, buf := range b.kept[i].kept {
						class += cap(buf)
					}
					if class != b.kept[i].bytes {
						t.Fatalf("class %d has %d bytes, and counts %d", i, class, b.kept[i].bytes)
					}
					sum += class
				}
				if sum != b.bytes || sum > b.Max {
					t.Fatalf("%d bytes kept of %d, and %d counted", sum, b.Max, b.bytes)
				}
			},
		})
	})
}

// The sizes in use are those that are kept, also when they were others before.
func TestBuffersFollow(t *testing.T) {
	b := Buffers{Max: 1 << 20}
	for _, size := range []int{3000, 40_000, 5000} {
		use := func() {
			var used [][]byte
			for range (1 << 19) / size {
				used = append(used, b.Get(size))
			}
			for _, buf := range used {
				b.Put(buf)
			}
		}
		use()
		use()
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			one, two := b.Get(size), b.Get(size-size/8)
			b.Put(one)
			b.Put(two)
		}), "of %d bytes", size)
	}
}

func TestBuffersTooLarge(t *testing.T) {
	b := Buffers{Max: 1 << 20}
	b.Put(make([]byte, 0, MaxBuffer+1))
	b.Put(make([]byte, 0, minBuffer-1))
	b.Put(nil)
	assert.Zero(t, b.bytes)
	(&Buffers{}).Put(make([]byte, 0, 1000))
}
