package testenv

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

func processAttributes(user *syscall.Credential, death syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: user, Setpgid: true, Pdeathsig: death}
}

// children returns the processes whose parent is pid.
func children(_ context.Context, pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []int
	for _, path := range stats {
		child, parent, _ := readStat(path)
		if child != 0 && parent == pid {
			found = append(found, child)
		}
	}
	return found, nil
}

// alive reports whether pid runs. A zombie does not.
func alive(pid int) bool {
	found, _, state := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	return found != 0 && state != 'Z' && state != 'X'
}

// frozen reports whether all threads of pid are stopped.
func frozen(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is well formed
	for _, path := range threads {
		if _, _, state := readStat(path); state != 'T' && state != 0 {
			return false
		}
	}
	return true
}

// readStat reads a process's number, its parent's and its state, or zeros if
// the process is gone: "7 (name) S 1 ...", as proc(5) has it. The name may hold
// anything, so what follows it is counted from its last parenthesis.
func readStat(path string) (pid, parent int, state byte) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, 0
	}
	number, _, _ := bytes.Cut(data, []byte(" "))
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 2 {
		return 0, 0, 0
	}
	pid, _ = strconv.Atoi(string(number))
	parent, _ = strconv.Atoi(string(fields[1]))
	return pid, parent, fields[0][0]
}
