package testenv

import "testing"

// A broker with two listeners on one port does not start.
func TestPortsAreDistinct(t *testing.T) {
	taken := map[int]bool{}
	for range (lastPort - firstPort) / 2 {
		port, err := freePort(t.Context())
		need(t, err)
		if taken[port] || port < firstPort || port >= lastPort {
			t.Fatalf("port %d was taken before, or is not of %d to %d", port, firstPort, lastPort)
		}
		taken[port] = true
	}
}
