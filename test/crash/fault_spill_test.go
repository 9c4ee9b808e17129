package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// mountSmall returns the path of a small file system, or false if this process may
// not make one. It is mounted nowhere: an open descriptor holds it, and the path
// leads through that. So it goes with the process, however that ends.
func mountSmall(t testing.TB) (path string, ok bool) {
	t.Helper()
	fd, err := detachedTmpfs()
	if err != nil {
		t.Logf("spill folder without a file system of its own, so it is never full: %v", err)
		return "", false
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), true
}

// detachedTmpfs makes a file system of spillSize.
// https://man7.org/linux/man-pages/man2/fsmount.2.html
func detachedTmpfs() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("open tmpfs: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigSetString(fs, "size", strconv.Itoa(spillSize)); err != nil {
		return 0, fmt.Errorf("set size of tmpfs: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return 0, fmt.Errorf("create tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("mount tmpfs: %w", err)
	}
	return fd, nil
}

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
	if !errors.Is(err, unix.ENOSPC) {
		return errors.Join(errors.New("the disk is not full"), err, os.Remove(path))
	}
	<-time.After(between(r, 300*time.Millisecond, 2*time.Second)) // full meanwhile
	return os.Remove(path)
}
