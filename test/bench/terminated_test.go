package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// Who ends the bench, as a supervisor does, finds neither its servers nor their folders.
func TestTerminated(t *testing.T) {
	if _, err := findRecvlogical(); err != nil {
		t.Skip(err)
	}
	program := filepath.Join(t.TempDir(), "bench")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir, err := os.MkdirTemp("", "terminated-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // Postgres is another user where this one is root
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, "-workloads", "first record", "-contenders", walpostTCP, "-rates", "", "-rounds", "1000")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	folders := func() []string {
		found, _ := filepath.Glob(filepath.Join(dir, "walpost-*"))
		return found
	}
	harness.Eventually(t, 2*time.Minute, "the folders of the bench and its two servers", func() bool {
		select {
		case err := <-ended:
			t.Skipf("no servers for the bench here: %v\n%s", err, out.String())
		default:
		}
		return len(folders()) == 3
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if left := folders(); len(left) > 0 || err == nil {
			t.Errorf("left %q, and ended with %v, want nothing left and a failure\n%s", left, err, out.String())
		}
	case <-time.After(2 * time.Minute):
		t.Error("not ended in two minutes")
	}
}
