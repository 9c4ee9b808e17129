package freelist

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestList(t *testing.T) {
	l := List[int]{Max: 100}
	assert.Nil(t, l.Get(), "an empty list")
	a, b, c := new(int), new(int), new(int)
	l.Put(a, 60)
	l.Put(b, 40)
	l.Put(c, 1) // one byte more than the list may keep
	runtime.GC()
	runtime.GC()
	assert.Same(t, b, l.Get(), "the last that was put, also after collections")
	l.Put(c, 40)
	assert.Same(t, c, l.Get(), "the bytes of what was taken count no more")
	assert.Same(t, a, l.Get())
	assert.Nil(t, l.Get())
}
