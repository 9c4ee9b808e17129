//go:build !linux

package pgsource

import "time"

func nap(d time.Duration) { time.Sleep(d) }

const tellsWaiting = false

// waiting would say how many bytes a read would give at once. Without it a
// backlog is read as it comes.
func waiting(uintptr) int { return 0 }
