//go:build !linux

package crash

import "testing"

// mountSmall returns false: only Linux can mount a file system nowhere.
func mountSmall(t testing.TB) (path string, ok bool) {
	t.Log("spill folder without a file system of its own, so it is never full")
	return "", false
}
