//go:build race

package guard

// Under the race detector a sync.Pool loses some of what is put into it.
func init() { poolLoses = true }
