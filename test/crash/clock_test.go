package crash

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The wall clock of one process cannot be moved without that of the machine. So the
// walpost of the harness is built with a package time that adds to the wall clock
// what a file says; the monotonic clock goes on as ever. Nothing else in it differs
// from a release. The file is mapped into the process: a write to it is seen at once.
const (
	clockVariable = "CRASH_CLOCK" // names the file

	clockBefore = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	clockAfter  = "\tsec, nsec, mono := runtimeNow()\n\tsec += *skew\n\tif mono == 0 {"
	clockTime   = "\n//go:linkname skew\nvar skew = new(int64)\n"
	clockMain   = `package main

import (
	"os"
	"syscall"
	"unsafe"
)

//go:linkname skew time.skew
var skew *int64

func init() {
	path, ok := os.LookupEnv("` + clockVariable + `")
	if !ok {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	data, err := syscall.Mmap(int(f.Fd()), 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	skew = (*int64)(unsafe.Pointer(&data[0]))
}
`
)

// clockOverlay writes what replaces files of the build into dir, and returns the
// flag for it.
// https://pkg.go.dev/cmd/go#hdr-Compile_packages_and_dependencies
func clockOverlay(dir string) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output() //nolint:noctx // bounded by the test's own timeout
	if err != nil {
		return "", fmt.Errorf("ask for GOROOT: %w", err)
	}
	std := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(std)
	if err != nil {
		return "", err
	}
	if strings.Count(string(source), clockBefore) != 1 {
		return "", errors.New("this Go's time.Now is not as it was: change the text that is replaced in it")
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	replaced := map[string]string{
		std: strings.Replace(string(source), clockBefore, clockAfter, 1) + clockTime,
		filepath.Join(here, "..", "..", "cmd", "walpost", "clock.go"): clockMain,
	}
	paths := map[string]string{}
	for path, content := range replaced {
		paths[path] = filepath.Join(dir, "overlay-"+filepath.Base(path))
		if err := os.WriteFile(paths[path], []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": paths})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return "-overlay=" + path, os.WriteFile(path, overlay, 0o600)
}

// clock is the wall clock of all instances of a stage.
type clock struct{ file *os.File }

func newClock(t testing.TB) *clock {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "clock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	c := &clock{file}
	if err := c.set(0); err != nil {
		t.Fatal(err)
	}
	return c
}

// set moves the clock to so much ahead of the machine's, in whole seconds.
func (c *clock) set(ahead time.Duration) error {
	_, err := c.file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64(ahead/time.Second))), 0)
	return err
}
