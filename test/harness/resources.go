package harness

import (
	"context"
	"fmt"
	"os"
	"testing"
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
