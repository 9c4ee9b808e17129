package pgsource

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Whatever is spilled when, a transaction gives back its messages in order, and
// memory stays within the bound.
func TestInProgress(t *testing.T) {
	dir, spilled := t.TempDir(), 0
	p := inProgress{max: 100_000, dir: dir, txs: map[uint32]*streamedTx{}, spilled: func(n int) { spilled += n }}
	defer p.close()
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[uint32][][]byte{}
	for n := range 3000 {
		xid := rng.Uint32N(5)
		size := rng.IntN(200)
		if n%500 == 0 {
			size = 150_000 // more than all that memory may hold
		}
		msg := bytes.Repeat([]byte{byte(n)}, size)
		if err := p.add(xid, msg); err != nil {
			t.Fatal(err)
		}
		want[xid] = append(want[xid], msg)
		if p.used > p.max {
			t.Fatalf("%d bytes in memory, want at most %d", p.used, p.max)
		}
	}
	if spilled == 0 {
		t.Error("nothing was spilled")
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("%d files have a name, want none", len(left))
	}
	for xid, msgs := range want {
		i := 0
		err := p.txs[xid].each(func(msg []byte) error {
			if i >= len(msgs) || !bytes.Equal(msg, msgs[i]) {
				return fmt.Errorf("transaction %d: message %d differs", xid, i)
			}
			i++
			return nil
		})
		if err != nil || i != len(msgs) {
			t.Errorf("transaction %d: %d of %d messages, %v", xid, i, len(msgs), err)
		}
		p.drop(xid)
	}
	if p.used != 0 || len(p.txs) != 0 {
		t.Errorf("%d bytes of %d transactions are left", p.used, len(p.txs))
	}
}

func TestInProgressAbort(t *testing.T) {
	p := inProgress{max: 1 << 20, txs: map[uint32]*streamedTx{}}
	for _, xid := range []uint32{1, 2} {
		if err := p.add(xid, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	p.abort(1, 7)
	if !slices.Equal(p.txs[1].aborted, []uint32{7}) {
		t.Error("a subtransaction's abort must mark it alone")
	}
	if want := int64(2*minChunk + abortSize); p.used != want {
		t.Errorf("%d bytes in memory, want %d", p.used, want)
	}
	p.abort(2, 2)
	if p.txs[2] != nil || p.txs[1] == nil {
		t.Error("a transaction's abort must drop it alone")
	}
	p.abort(3, 3) // of one that brought nothing
	p.drop(1)
	if p.used != 0 {
		t.Errorf("%d bytes are left", p.used)
	}
}

// A folder that cannot be written to is an error that names it.
func TestInProgressUnwritable(t *testing.T) {
	p := inProgress{max: 1, dir: filepath.Join(t.TempDir(), "missing"), txs: map[uint32]*streamedTx{}, spilled: func(int) {}}
	err := p.add(1, []byte("message"))
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("spill transaction 1 to "+p.dir)) {
		t.Errorf("got %v", err)
	}
}
