package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

const (
	// lockPoll is how often a lock that is held is tried again. It is held for
	// as long as a few writes take.
	lockPoll = 5 * time.Millisecond

	// lockTimeout bounds the wait for it: who holds it longer has frozen.
	lockTimeout = 10 * time.Second
)

var errLocked = errors.New("file is locked")

// lockFile locks the file path, which it creates if need be, and waits for whoever
// holds it, until ctx is done and no longer than limit. To close the file is to unlock it; so does the
// system when the process dies.
func lockFile(ctx context.Context, path string, limit time.Duration) (*os.File, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("lock %s: held by another process for %s", path, limit))
	defer cancel()
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := tryLock(file)
		if err == nil {
			return file, nil
		}
		if errors.Is(err, errLocked) {
			err = wait(ctx, lockPoll)
		}
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
