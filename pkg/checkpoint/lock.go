package checkpoint

import (
	"context"
	"errors"
	"os"
	"time"
)

// lockPoll is how often a lock that is held is tried again. It is held for as
// long as a few writes take.
const lockPoll = 5 * time.Millisecond

var errLocked = errors.New("file is locked")

// lockFile locks the file path, which it creates if need be, and waits until ctx
// is done for whoever holds it. To close the file is to unlock it; so does the
// system when the process dies.
func lockFile(ctx context.Context, path string) (*os.File, error) {
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
