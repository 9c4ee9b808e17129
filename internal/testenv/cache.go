package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// cached returns the folder of that name in the cache, which fill makes if it
// is not there. Fill writes to a folder of another name, which gets its own
// once fill has succeeded, so a cached folder is always whole. One process
// fills at a time, the others wait.
func cached(ctx context.Context, name string, fill func(ctx context.Context, dir string) error) (string, error) {
	root, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, name)
	if isDir(dir) {
		return dir, nil
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if isDir(dir) {
		return dir, nil
	}
	if err := fillDir(ctx, dir, fill); err != nil {
		return "", fmt.Errorf("fill the cache %s: %w", dir, err)
	}
	return dir, nil
}

// fillDir must be called with the lock held.
func fillDir(ctx context.Context, dir string, fill func(ctx context.Context, dir string) error) (err error) {
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil { // of a process that died
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(partial)) }()
	if err := os.Mkdir(partial, 0o755); err != nil {
		return err
	}
	if err := fill(ctx, partial); err != nil {
		return err
	}
	return os.Rename(partial, dir)
}

// lock takes the lock that path stands for, which ends with this process at the
// latest.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, func(context.Context) error {
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}

// cacheDir returns the folder for what is worth keeping: the user's own, or one
// below the folder for temporary files where that cannot be had. As root it is
// one that the server's user can reach, which root's own is not.
func cacheDir() (string, error) {
	var reasons error
	for _, dir := range cacheDirs() {
		err := ownDir(dir)
		if err == nil {
			return dir, nil
		}
		reasons = errors.Join(reasons, err)
	}
	return "", fmt.Errorf("find a folder for the cache: %w", reasons)
}

func cacheDirs() []string {
	shared := filepath.Join(tempDir(nil), fmt.Sprintf("walpost-cache-%d", os.Geteuid()))
	if os.Geteuid() == 0 {
		return []string{"/var/cache/walpost", filepath.Join("/tmp", filepath.Base(shared))}
	}
	if dir, err := os.UserCacheDir(); err == nil {
		return []string{filepath.Join(dir, "walpost"), shared}
	}
	return []string{shared}
}

// ownDir makes dir, and returns an error if somebody else could have put
// anything there: programs are run from it.
func ownDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != os.Geteuid() || info.Mode()&0o022 != 0 {
		return fmt.Errorf("%s is not a folder that only its owner, user %d, can write to", dir, os.Geteuid())
	}
	return os.Chmod(dir, 0o755) // whatever the umask was
}

func removeAll(paths ...string) error {
	var errs error
	for _, path := range paths {
		errs = errors.Join(errs, os.RemoveAll(path))
	}
	return errs
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
