//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package checkpoint

import (
	"errors"
	"fmt"
	"os"
)

// tryLock fails: without a lock two processes could own one checkpoint.
func tryLock(file *os.File) error {
	return fmt.Errorf("lock %s: %w", file.Name(), errors.ErrUnsupported)
}
