package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

// terminal makes a pseudoterminal: what is written to screen can be read from keyboard. Both are
// closed after the test. https://man7.org/linux/man-pages/man4/ptmx.4.html
func terminal(t *testing.T) (keyboard, screen *os.File) {
	t.Helper()
	open := func(name string) *os.File {
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	keyboard = open("/dev/ptmx")
	fd := int(keyboard.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return keyboard, open(fmt.Sprintf("/dev/pts/%d", n))
}

// On a terminal each screen takes the place of the one before.
func TestStatusWatchOnTerminal(t *testing.T) {
	db := envtest.NewDatabase(t)
	keyboard, screen := terminal(t)
	shown := make(screens, 100)
	go func() {
		var screen bytes.Buffer
		b := make([]byte, 1)
		for {
			if _, err := keyboard.Read(b); err != nil {
				return
			}
			screen.Write(b)
			if bytes.HasSuffix(screen.Bytes(), []byte("\x1b[J")) {
				shown <- screen.String()
				screen.Reset()
			}
		}
	}()
	stop := watch(t, screen, io.Discard, "--dsn", db.DSN, "--slot", "nosuch")
	whole := func(s string) bool {
		return strings.HasPrefix(s, "\x1b[Hwalpost status, ") && strings.Contains(s, "slot        nosuch") && strings.Contains(s, "\x1b[K")
	}
	shown.next(t, "status", whole)
	shown.next(t, "status in the place of the one before", whole)
	stop()
}
