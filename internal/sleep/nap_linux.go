package main

import (
	"syscall"
	"time"
)

// sleepUntil returns at once if t has passed. The runtime's own timers wake a process that is
// idle up to a millisecond late, and several at once, where many are due one after the other.
func sleepUntil(t time.Time) {
	for d := time.Until(t); d > 0; d = time.Until(t) {
		ts := syscall.NsecToTimespec(d.Nanoseconds())
		_ = syscall.Nanosleep(&ts, nil) // any signal ends it early, and the runtime sends itself some
	}
}
