//go:build race

package outbox

// Under the race detector a sync.Pool loses some of what is put into it.
func init() { poolLoses = true }
