package sleep

import (
	"syscall"
	"time"
)

func napUntil(t time.Time) {
	for d := time.Until(t); d > 0; d = time.Until(t) {
		ts := syscall.NsecToTimespec(d.Nanoseconds())
		_ = syscall.Nanosleep(&ts, nil) // any signal ends it early, and the runtime sends itself some
	}
}
