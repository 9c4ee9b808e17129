package testenv

import (
	"bufio"
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// childVariable makes TestServerDiesWithUs the process that dies; it holds the
// server's folder.
const childVariable = "WALPOST_TESTENV_CHILD"

func TestServerDiesWithUs(t *testing.T) {
	if dir := os.Getenv(childVariable); dir != "" {
		dieWithServer(t, dir)
	}
	dir := tempDir(nil) + "/walpost-test-death"
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cmd := osexec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestServerDiesWithUs$")
	cmd.Env = append(os.Environ(), childVariable+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	pid, aerr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || aerr != nil {
		need(t, fmt.Errorf("%w: the child says %q", ErrUnavailable, line))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = poll(ctx, func(context.Context) error {
		if alive(pid) {
			return fmt.Errorf("process %d is still there", pid)
		}
		return nil
	})
	if err != nil {
		t.Errorf("the server outlived its parent: %v", err)
	}
}

// dieWithServer starts a server, says which, and waits to be killed.
func dieWithServer(t *testing.T, dir string) {
	t.Setenv(PostgresVariable, "")
	s, err := StartPostgres(context.Background(), PostgresConfig{Dir: dir})
	need(t, err)
	fmt.Println(s.process.(*process).pid)
	select {}
}
