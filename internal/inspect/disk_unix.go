//go:build unix

package inspect

import "golang.org/x/sys/unix"

// DiskFree is how much an ordinary user may still write to a folder's file system.
func DiskFree(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return uint64(s.Bavail) * uint64(s.Bsize), nil //nolint:unconvert // the types differ between systems
}
