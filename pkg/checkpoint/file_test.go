package checkpoint

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
)

func openFile(t *testing.T, path string) *File {
	t.Helper()
	f, err := NewFile(FileConfig{Path: path, Slot: "s", Owner: "test/1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFile(t *testing.T) {
	checkpointtest.Run(t, func(t *testing.T) checkpointtest.Harness {
		folder := filepath.Join(t.TempDir(), "state")
		must(t, os.Mkdir(folder, 0o755))
		path := filepath.Join(folder, "checkpoint.json")
		return checkpointtest.Harness{
			Open: func(t *testing.T) cdc.Store { return openFile(t, path) },
			Faults: map[string]func(*testing.T) func(){
				"FolderGone": func(t *testing.T) func() {
					must(t, os.Rename(folder, folder+".away"))
					return func() { must(t, os.Rename(folder+".away", folder)) }
				},
				"Unreadable": func(t *testing.T) func() {
					must(t, os.Rename(path, path+".away"))
					must(t, os.Mkdir(path, 0o755))
					return func() {
						must(t, os.Remove(path))
						must(t, os.Rename(path+".away", path))
					}
				},
			},
		}
	})
}

func TestNewFileConfig(t *testing.T) {
	_, err := NewFile(FileConfig{})
	for _, want := range []string{"path is empty", "slot is empty"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewFile() = %v, want it to say %q", err, want)
		}
	}
}

// What is in the file is for people to read, and for later versions.
func TestFileContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint.json")
	const old = `{"slot": "s", "owner": "x", "system_id": "18446744073709551615", "timeline": 4,
		"lsn": "16/B374D848", "epoch": 7, "saved_at": "2026-01-02T03:04:05Z"}`
	must(t, os.WriteFile(path, []byte(old), 0o600))
	f := openFile(t, path)
	want := cdc.Checkpoint{
		Position: cdc.Position{SystemID: 1<<64 - 1, Timeline: 4, LSN: 0x16_B374D848},
		Epoch:    7,
		SavedAt:  time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	if got, err := f.Load(t.Context()); err != nil || got != want {
		t.Errorf("Load() = %+v, %v, want %+v", got, err, want)
	}
	want.Epoch = 8
	if got := mustAcquire(t, f); got != want {
		t.Errorf("Acquire() = %+v, want %+v", got, want)
	}
	wantJSON := `{
  "slot": "s",
  "owner": "test/1",
  "system_id": "18446744073709551615",
  "timeline": 4,
  "lsn": "16/B374D848",
  "epoch": 8,
  "saved_at": "2026-01-02T03:04:05Z"
}
`
	if got, err := os.ReadFile(path); err != nil || string(got) != wantJSON {
		t.Errorf("file = %s, %v, want %s", got, err, wantJSON)
	}
}

func TestFileRefuses(t *testing.T) {
	tests := []struct{ name, content, wantErr, wantHint string }{
		{"Empty", "", "not a checkpoint", "move it away"},
		{"Garbage", "\x00\x00\x00\x00", "not a checkpoint", "move it away"},
		{"CutShort", `{"slot": "s", "epo`, "not a checkpoint", "move it away"},
		{"Trailing", `{"slot": "s", "epoch": 1} {"slot": "s", "epoch": 2}`, "not a checkpoint", "move it away"},
		{"OtherJSON", `{"a": 1}`, "not a checkpoint", "move it away"},
		{"BadLSN", `{"slot": "s", "epoch": 1, "lsn": "none"}`, "not a checkpoint", "move it away"},
		{"OtherSlot", `{"slot": "orders", "epoch": 1}`, `slot "orders"`, "file of its own"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "checkpoint.json")
			must(t, os.WriteFile(path, []byte(tt.content), 0o600))
			f := openFile(t, path)
			_, errLoad := f.Load(t.Context())
			_, errAcquire := f.Acquire(t.Context())
			for _, err := range []error{errLoad, errAcquire, f.Save(t.Context(), at(1))} {
				wantRefused(t, err, tt.wantHint)
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("error = %v, want it to say %q", err, tt.wantErr)
				}
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != tt.content {
				t.Errorf("file = %q, %v, want it left as it was", got, err)
			}
		})
	}
}

func TestFileUnusablePath(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "plain"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "closed"), 0o500))
	for name, path := range map[string]string{
		"NoFolder":    "missing/checkpoint.json",
		"FileAsDir":   "plain/checkpoint.json",
		"FolderAsIs":  ".",
		"NotWritable": "closed/checkpoint.json",
	} {
		t.Run(name, func(t *testing.T) {
			if name == "NotWritable" && os.Geteuid() == 0 {
				t.Skip("nothing is closed to root")
			}
			path := filepath.Join(dir, path)
			_, err := openFile(t, path).Acquire(t.Context())
			wantRefused(t, err, path)
		})
	}
}

func TestFileDiskFull(t *testing.T) {
	const full = "/dev/full"
	if _, err := os.Stat(full); err != nil {
		t.Skip(err)
	}
	path := filepath.Join(t.TempDir(), "checkpoint.json")
	f := openFile(t, path)
	mustAcquire(t, f)
	must(t, f.Save(t.Context(), at(1)))
	must(t, os.Symlink(full, path+".tmp"))
	err := f.Save(t.Context(), at(2))
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("Save() on a full disk = %v, want ENOSPC and the way out", err)
	}
	if got, err := f.Load(t.Context()); err != nil || got.Position != at(1) {
		t.Errorf("Load() = %+v, %v, want what was saved before", got, err)
	}
	must(t, f.Save(t.Context(), at(3)))
}

// What a crash left of an unfinished write is overwritten.
func TestFileAfterCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint.json")
	f := openFile(t, path)
	mustAcquire(t, f)
	must(t, os.WriteFile(path+".tmp", []byte(strings.Repeat("x", 1<<16)), 0o600))
	must(t, f.Save(t.Context(), at(5)))
	if got, err := openFile(t, path).Load(t.Context()); err != nil || got.Position != at(5) {
		t.Errorf("Load() = %+v, %v, want %+v", got, err, at(5))
	}
	entries, err := filepath.Glob(path + "*")
	must(t, err)
	if want := []string{path, path + ".lock"}; !slices.Equal(entries, want) {
		t.Errorf("files = %q, want %q", entries, want)
	}
}

func TestFileLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint.json")
	f := openFile(t, path)
	mustAcquire(t, f)
	lock, err := lockFile(t.Context(), path+".lock", time.Second)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.Save(ctx, at(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Save() of a locked file = %v, want the context's end", err)
	}
	if _, err := f.Load(t.Context()); err != nil {
		t.Errorf("Load() of a locked file = %v, want no wait", err)
	}
	if _, err := lockFile(t.Context(), path+".lock", 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), path+".lock: held by another process") {
		t.Errorf("lockFile() of a locked file = %v, want an end, and the file's name", err)
	}
	must(t, lock.Close())
	must(t, f.Save(t.Context(), at(2)))
}

// Each Acquire has an epoch of its own, however many processes call it.
func TestFileEpochsAreUnique(t *testing.T) {
	const stores, rounds = 8, 10
	path := filepath.Join(t.TempDir(), "checkpoint.json")
	var (
		mu   sync.Mutex
		seen = map[int64]int{}
		wg   sync.WaitGroup
	)
	for range stores {
		f := openFile(t, path)
		wg.Go(func() {
			for range rounds {
				cp, err := f.Acquire(t.Context())
				if err != nil {
					t.Errorf("Acquire() = %v", err)
				}
				mu.Lock()
				seen[cp.Epoch]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for epoch := range int64(stores * rounds) {
		if seen[epoch+1] != 1 {
			t.Errorf("epoch %d was given %d times, want once", epoch+1, seen[epoch+1])
		}
	}
}

func TestFileClosed(t *testing.T) {
	f := openFile(t, filepath.Join(t.TempDir(), "checkpoint.json"))
	must(t, f.Close())
	must(t, f.Close())
	if _, err := f.Load(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("Load() after Close = %v, want %v", err, errClosed)
	}
	if err := f.Save(t.Context(), at(1)); !errors.Is(err, errClosed) {
		t.Errorf("Save() after Close = %v, want %v", err, errClosed)
	}
}
