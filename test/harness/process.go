// Package harness runs walpost as users do, a process of its own between real
// servers, and checks from the outside what arrived: it reads Kafka, the table,
// the checkpoint and the slot, and nothing of walpost's insides.
package harness

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	buildOnce sync.Once
	binary    string
	errBuild  error
)

// Binary builds walpost once a test process, as a release is built but for the
// flags that are given, and returns its path. The file lives in the folder of the
// first test that asks for it: ask in TestMain's stead by passing a folder that
// outlives them all.
func Binary(dir string, flags ...string) (string, error) {
	buildOnce.Do(func() {
		binary = filepath.Join(dir, "walpost")
		args := append([]string{"build", "-trimpath", "-o", binary}, flags...)
		cmd := exec.Command("go", append(args, "github.com/walpost/walpost/cmd/walpost")...) //nolint:noctx // bounded by the test's own timeout
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			errBuild = fmt.Errorf("build walpost: %w\n%s", err, out)
		}
	})
	return binary, errBuild
}

// Process is a running walpost.
type Process struct {
	Args []string

	cmd    *exec.Cmd
	log    *lockedBuffer
	exited chan struct{}
	peak   atomic.Int64
}

// Start runs walpost with args and env on top of a clean environment, so that
// the tester's own variables mean nothing. The process is killed with the test.
func Start(t testing.TB, path string, env []string, args ...string) *Process {
	t.Helper()
	p := &Process{Args: args, log: &lockedBuffer{}, exited: make(chan struct{})}
	p.cmd = exec.Command(path, args...) //nolint:noctx // ended by Cleanup
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start walpost: %v", err)
	}
	go func() {
		_ = p.cmd.Wait() // the state tells
		close(p.exited)
	}()
	go p.watchMemory()
	t.Cleanup(func() {
		p.Signal(syscall.SIGKILL)
		<-p.exited
		if t.Failed() {
			t.Logf("walpost %s:\n%s", strings.Join(args, " "), tail(p.Log(), 8000))
		}
	})
	return p
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

// Signal sends a signal. One to a process that has ended does nothing.
func (p *Process) Signal(sig os.Signal) { _ = p.cmd.Process.Signal(sig) }

// Wait waits for the end and returns the exit code, -1 if a signal ended it.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("walpost still runs: %w", context.Cause(ctx))
	}
}

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Log returns what the process wrote so far, of both streams.
func (p *Process) Log() string { return p.log.String() }

// PeakRSS returns the most memory that the process had resident, in bytes: the
// kernel's own count, read five times a second and so blind to the last moment.
// (The resource usage of an ended child counts what its parent had at the fork.)
func (p *Process) PeakRSS() int64 { return p.peak.Load() }

func (p *Process) watchMemory() {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-p.exited:
			return
		case <-ticker.C:
			if n := PeakRSS(p.cmd.Process.Pid); n > 0 {
				p.peak.Store(n)
			}
		}
	}
}

// PeakRSS is the most memory, in bytes, that a running process has had resident; 0 if there
// is no such process.
func PeakRSS(pid int) int64 { return memory(pid, "VmHWM") }

// memory returns a line of the process's status, in bytes.
func memory(pid int, name string) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0 // it has just ended
	}
	for line := range strings.Lines(string(status)) {
		var kb int64
		if _, err := fmt.Sscanf(line, name+": %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	return 0
}

// CPU returns the CPU time of a process that has ended.
func (p *Process) CPU() time.Duration {
	<-p.exited
	return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
}

// Ready asks /readyz at addr, as Get does.
func Ready(ctx context.Context, addr string) (int, string) { return Get(ctx, addr, "/readyz") }

// Get asks walpost's admin server at addr for path, and returns the status code and
// the text; 0 if nothing listens.
func Get(ctx context.Context, addr, path string) (int, string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	var body bytes.Buffer
	_, _ = body.ReadFrom(res.Body)
	return res.StatusCode, strings.TrimSpace(body.String())
}

// PollInterval is how often Eventually looks.
const PollInterval = 20 * time.Millisecond

// Eventually polls cond until it holds, and fails the test if it does not within
// limit.
func Eventually(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	EventuallyEvery(t, PollInterval, limit, what, cond)
}

// EventuallyEvery is Eventually with an interval, for a cond that costs much.
func EventuallyEvery(t testing.TB, interval, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		<-ticker.C
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
