package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// serverUser returns whom Postgres is to run as: nil for the current user, or
// somebody without privileges if that is root, as whom Postgres does not run.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var reasons error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err == nil {
			return credential(u)
		}
		reasons = errors.Join(reasons, err)
	}
	return nil, fmt.Errorf("find a user to run Postgres as: %w", reasons)
}

func credential(u *user.User) (*syscall.Credential, error) {
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uerr, gerr); err != nil {
		return nil, fmt.Errorf("read the numbers of user %s: %w", u.Username, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: false}, nil
}

// giveTo makes owner the owner of path, and does nothing for nil.
func giveTo(owner *syscall.Credential, path string) error {
	if owner == nil {
		return nil
	}
	return os.Lchown(path, int(owner.Uid), int(owner.Gid))
}

// serverDir makes the folder of one server: dir, which must be empty if it is
// there, or a new one if dir is "".
func serverDir(dir string, owner *syscall.Credential) (string, error) {
	dir, err := makeDir(dir, owner)
	if err != nil {
		return "", fmt.Errorf("make a folder for the server: %w", err)
	}
	if err := reachable(dir, owner); err != nil {
		return "", err
	}
	return dir, giveTo(owner, dir)
}

func makeDir(dir string, owner *syscall.Credential) (string, error) {
	if dir == "" {
		return os.MkdirTemp(tempDir(owner), "walpost-")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s is not empty", dir)
	}
	return dir, err
}

// tempDir returns the folder for temporary files, or the system's own if the
// environment names one that owner cannot reach.
func tempDir(owner *syscall.Credential) string {
	dir := os.TempDir()
	if reachable(filepath.Join(dir, "server"), owner) != nil {
		return "/tmp"
	}
	return dir
}

// reachable returns an error if owner cannot come to path.
func reachable(path string, owner *syscall.Credential) error {
	if owner == nil {
		return nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&0o001 == 0 {
			return fmt.Errorf("reach %s as user %d: %s is closed to others", path, owner.Uid, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// openToAll lets everybody read what is in dir, and nobody write.
func openToAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if d.IsDir() || info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return os.Chmod(path, mode)
	})
}
