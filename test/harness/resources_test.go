package harness

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	pid, parent, cpu := parseStat([]byte("7 (a ) (b) S 3 7 7 0 -1 4194560 1 2 3 4 100 20 300 5 20 0 1 0 99 8 9"))
	if pid != 7 || parent != 3 || cpu != 4250*time.Millisecond {
		t.Errorf("pid %d, parent %d, CPU %s; want 7, 3, 4.25s", pid, parent, cpu)
	}
	if pid, _, _ := parseStat([]byte("7 (cut off")); pid != 0 {
		t.Errorf("pid %d of what is cut off, want 0", pid)
	}
}

// What a child has used counts while it runs, and once it was waited for.
func TestTreeCPU(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	before := TreeCPU(os.Getpid())
	child := exec.CommandContext(t.Context(), "sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; read -r _")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	Eventually(t, time.Minute, "CPU of the child that runs", func() bool { return TreeCPU(child.Process.Pid) >= 5*tick })
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // read found no line
	used := child.ProcessState.UserTime() + child.ProcessState.SystemTime()
	if got := TreeCPU(os.Getpid()) - before; got < used-2*tick {
		t.Errorf("%s of this process with its child, want the child's %s", got, used)
	}
}
