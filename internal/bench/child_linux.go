package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// setAttributes keeps the terminal's Ctrl-C from the process, which is told to stop by
// us, and ends it should we be killed.
func setAttributes(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// peakRSS returns the most memory that a running process has had resident, in bytes. The
// kernel's account of an ended one begins before it became walpost.
func peakRSS(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0 // it has just ended
	}
	for line := range strings.Lines(string(status)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	return 0
}
