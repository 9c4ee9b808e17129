package cdc

import "time"

// started is what stamps count from.
var started = time.Now()

// Stamp returns t as a number that is stored and compared atomically: the nanoseconds
// since this process started. It takes the monotonic clock that t was read from, so it
// stays true when the wall clock jumps, which [time.Time.UnixNano] does not. Zero is
// the start itself, and can stand for never.
func Stamp(t time.Time) int64 { return int64(t.Sub(started)) }

// Stamped returns the time of a stamp, with its monotonic reading.
func Stamped(stamp int64) time.Time { return started.Add(time.Duration(stamp)) }
