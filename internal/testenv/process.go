package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a program of this machine.
type process struct {
	pid  int
	done chan struct{}
}

// pidOf returns the number of a program of this machine, and 0 for what is none.
func pidOf(p Process) int {
	if local, ok := p.(*process); ok {
		return local.pid
	}
	return 0
}

// startProcess starts cmd, in a process group of its own so that the
// terminal's interrupt does not reach it. When this process dies the kernel
// sends death to the program, where the kernel can.
func startProcess(cmd *exec.Cmd, user *syscall.Credential, death syscall.Signal) (*process, error) {
	cmd.SysProcAttr = processAttributes(user, death)
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The death signal is sent when the thread that forked ends, so
		// that thread is kept for as long as the program runs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // that it has ended is all there is to know
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

func (p *process) Done() <-chan struct{} { return p.done }

func (p *process) Signal(sig syscall.Signal) error {
	if err := ended(p); err != nil {
		return err
	}
	if err := syscall.Kill(p.pid, sig); err != nil || sig != syscall.SIGSTOP {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), freezeTimeout)
	defer cancel()
	return poll(ctx, func(context.Context) error {
		if ended(p) == nil && !frozen(p.pid) {
			return fmt.Errorf("process %d has not stopped yet", p.pid)
		}
		return nil
	})
}

// freezeTimeout bounds the wait for SIGSTOP to reach every thread.
const freezeTimeout = 10 * time.Second

func (p *process) Kill(ctx context.Context) error {
	// A stopped parent neither forks nor sees its children die.
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return ignoreGone(err)
	}
	family, err := children(ctx, p.pid)
	if err := errors.Join(err, p.Signal(syscall.SIGKILL)); err != nil {
		return err
	}
	for _, pid := range family {
		if err := ignoreGone(syscall.Kill(pid, syscall.SIGKILL)); err != nil {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	if err := waitEnd(ctx, p); err != nil {
		return err
	}
	return poll(ctx, func(context.Context) error {
		for _, pid := range family {
			if alive(pid) {
				return fmt.Errorf("process %d is still there", pid)
			}
		}
		return nil
	})
}

// ignoreGone makes nothing of an error that says that the process has ended.
func ignoreGone(err error) error {
	if errors.Is(err, syscall.ESRCH) || errors.Is(err, errExited) {
		return nil
	}
	return err
}

// logTail returns the end of a log, for an error message, and nothing for "".
func logTail(path string) string {
	const size = 2000
	if path == "" {
		return ""
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	data = bytes.TrimSpace(data)
	return string(data[max(0, len(data)-size):])
}

// openLog opens a log to append to.
func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}
