package testenv

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func TestCachedFillsOnce(t *testing.T) {
	name := newCacheName(t)
	var fills atomic.Int32
	fill := func(_ context.Context, dir string) error {
		fills.Add(1)
		return os.WriteFile(filepath.Join(dir, "file"), []byte("whole"), 0o600)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			dir, err := cached(t.Context(), name, fill)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := os.ReadFile(filepath.Join(dir, "file")); string(got) != "whole" {
				t.Errorf("file holds %q, %v; want it whole", got, err)
			}
		})
	}
	all.Wait()
	if got := fills.Load(); got != 1 {
		t.Errorf("filled %d times, want once", got)
	}
}

func TestCachedFailure(t *testing.T) {
	name := newCacheName(t)
	cause := errors.New("no network")
	if _, err := cached(t.Context(), name, func(context.Context, string) error { return cause }); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
	dir, err := cached(t.Context(), name, func(context.Context, string) error { return nil })
	if err != nil {
		t.Fatalf("after a failure: %v", err)
	}
	if isDir(dir + ".partial") {
		t.Error("the partial folder was left behind")
	}
}

func TestLockWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 3*pollInterval)
	defer cancel()
	if _, err := lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock: got %v, want it to wait", err)
	}
}

// newCacheName returns a name in the cache that is removed after the test.
func newCacheName(t *testing.T) string {
	t.Helper()
	root, err := cacheDir()
	if err != nil {
		t.Fatal(err)
	}
	name := "test-" + newPassword()
	t.Cleanup(func() {
		if err := removeAll(filepath.Join(root, name), filepath.Join(root, name+".lock")); err != nil {
			t.Error(err)
		}
	})
	return name
}

func TestOwnDirRefuses(t *testing.T) {
	dir := t.TempDir()
	writable, link := filepath.Join(dir, "writable"), filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(writable, 0o700), os.Chmod(writable, 0o777), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{"writable by all": writable, "a link": link}
	if os.Geteuid() == 0 {
		paths["somebody else's"] = filepath.Join(dir, "other")
		if err := errors.Join(os.Mkdir(paths["somebody else's"], 0o755), os.Chown(paths["somebody else's"], 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	for name, path := range paths {
		if err := ownDir(path); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if err := ownDir(filepath.Join(dir, "new")); err != nil {
		t.Errorf("a new one: %v", err)
	}
}

func TestReachable(t *testing.T) {
	dir := t.TempDir()
	open, closed := filepath.Join(dir, "open"), filepath.Join(dir, "closed")
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Mkdir(open, 0o755), os.Mkdir(closed, 0o700)); err != nil {
		t.Fatal(err)
	}
	somebody := &syscall.Credential{Uid: 65534}
	if err := reachable(filepath.Join(open, "server"), somebody); err != nil {
		t.Errorf("open: %v", err)
	}
	if err := reachable(filepath.Join(closed, "server"), somebody); err == nil {
		t.Error("closed: got no error")
	}
	if err := reachable(filepath.Join(closed, "server"), nil); err != nil {
		t.Errorf("closed, but our own: %v", err)
	}
}
