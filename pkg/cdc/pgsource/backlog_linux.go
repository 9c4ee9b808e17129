package pgsource

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nap sleeps. The runtime's own timers wake an idle process to the millisecond,
// which is too coarse.
func nap(d time.Duration) {
	ts := syscall.NsecToTimespec(d.Nanoseconds())
	_ = syscall.Nanosleep(&ts, nil) // woken early is good enough
}

// tellsWaiting says that waiting can tell.
const tellsWaiting = true

// waiting returns how many bytes a read would give at once.
func waiting(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}
