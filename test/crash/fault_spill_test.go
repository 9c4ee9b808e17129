package crash

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// spillFaults hit the folder for transactions that are too large for memory.
var spillFaults = []fault{
	{"spill: folder gone", 2, spillGone},
	{diskFull, 3, spillFull},
}

// diskFull needs a file system that can be filled.
const diskFull = "spill: disk full"

// spillSize is the size of the file system of the folder.
const spillSize = 32 << 20

func spillGone(_ context.Context, s *stage, r *rand.Rand) error {
	if err := os.Remove(s.spillDir()); err != nil {
		return err
	}
	<-time.After(between(r, 300*time.Millisecond, 2*time.Second)) // gone meanwhile
	return os.Mkdir(s.spillDir(), 0o700)
}

// spillFull fills the file system.
func spillFull(_ context.Context, s *stage, r *rand.Rand) error {
	path := filepath.Join(s.spill, "filler")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 64<<10)
	for written := 0; written <= 2*spillSize; written += len(block) {
		if _, err = f.Write(block); err != nil {
			break
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(errors.New("the disk is not full"), err, os.Remove(path))
	}
	<-time.After(between(r, 300*time.Millisecond, 2*time.Second)) // full meanwhile
	return os.Remove(path)
}
