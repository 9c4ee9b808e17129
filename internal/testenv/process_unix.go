//go:build unix && !linux

package testenv

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"syscall"
)

// processAttributes ignores death: only Linux can send it.
func processAttributes(user *syscall.Credential, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: user, Setpgid: true}
}

// children returns the processes whose parent is pid.
func children(ctx context.Context, pid int) ([]int, error) {
	out, err := exec.CommandContext(ctx, "ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []int
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var child, parent int
		if _, err := fmt.Sscan(lines.Text(), &child, &parent); err == nil && parent == pid {
			found = append(found, child)
		}
	}
	return found, nil
}

// frozen cannot tell, and trusts that the signal has arrived.
func frozen(int) bool { return true }

// alive reports whether pid runs.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
