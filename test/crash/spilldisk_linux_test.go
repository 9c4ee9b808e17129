package crash

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

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
