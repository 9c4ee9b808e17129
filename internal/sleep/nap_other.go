//go:build !linux

package sleep

import "time"

func napUntil(t time.Time) { time.Sleep(time.Until(t)) }
