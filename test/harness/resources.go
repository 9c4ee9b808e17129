package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Resources are what a process holds at a moment.
type Resources struct {
	RSS        int64 // bytes
	Files      int   // descriptors, sockets included
	Goroutines int
}

// String prints them for a line of figures.
func (r Resources) String() string {
	return fmt.Sprintf("%.1f MiB, %d files, %d goroutines", float64(r.RSS)/(1<<20), r.Files, r.Goroutines)
}

// Resources asks the kernel, and walpost's metrics at addr.
func (p *Process) Resources(t testing.TB, addr string) Resources {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), probeTimeout)
	defer cancel()
	pid := p.cmd.Process.Pid
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	goroutines, ok := Metric(ctx, addr, "go_goroutines")
	if !ok {
		t.Fatal("walpost does not tell its goroutines")
	}
	return Resources{RSS: memory(pid, "VmRSS"), Files: len(files), Goroutines: int(goroutines)}
}

// TreeCPU is the CPU time that a running process, its children that have ended and all
// below it that run have used; 0 if there is no such process, or no /proc.
func TreeCPU(pid int) time.Duration {
	paths, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	parents, used := map[int]int{}, map[int]time.Duration{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		if p, parent, cpu := parseStat(data); p != 0 {
			parents[p], used[p] = parent, cpu
		}
	}
	sum := time.Duration(0)
	for p, cpu := range used {
		above, ok := p, true
		for ok && above != pid {
			above, ok = parents[above]
		}
		if ok {
			sum += cpu
		}
	}
	return sum
}

// tick is the unit of the times in /proc, on every machine that Go runs on.
const tick = time.Second / 100

// parseStat reads a process's number, its parent's, and the CPU time of it and of its
// children that it has waited for: "7 (name) S 1 ...", as proc(5) has it. The name may
// hold anything, so what follows is counted from its last parenthesis.
func parseStat(data []byte) (pid, parent int, cpu time.Duration) {
	const times, count = 11, 4 // utime, stime, cutime, cstime
	number, _, _ := bytes.Cut(data, []byte(" "))
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < times+count {
		return 0, 0, 0
	}
	pid, _ = strconv.Atoi(string(number))
	parent, _ = strconv.Atoi(string(fields[1]))
	for _, field := range fields[times : times+count] {
		n, _ := strconv.Atoi(string(field))
		cpu += time.Duration(n) * tick
	}
	return pid, parent, cpu
}
