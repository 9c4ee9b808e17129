package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// stopTimeout is how long a process may take to end before it is killed.
	stopTimeout = 30 * time.Second

	// keptLog is how much of the end of its log is kept.
	keptLog = 4 << 10
)

// usage is what a process has taken.
type usage struct {
	cpu time.Duration
	rss int64 // bytes, at its highest; 0: unknown
}

// beside runs fn beside a process of walpost, which it stops after that. The error of a
// process that fails comes with the end of its log.
func (b *bench) beside(ctx context.Context, fn func(context.Context) error) (u usage, err error) {
	pctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd, err := b.cfg.Walpost(pctx, b.names)
	if err != nil {
		return u, err
	}
	log := &tail{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	setAttributes(cmd)
	if err := cmd.Start(); err != nil {
		return u, fmt.Errorf("start walpost: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := cmd.Wait()
		switch told := pctx.Err() != nil; {
		case told && cmd.ProcessState.Success():
			return nil
		case told:
			return fmt.Errorf("walpost did not stop in good order: %w", err)
		}
		return fmt.Errorf("walpost has ended: %w", errors.Join(err, errEnded))
	})
	g.Go(func() error {
		defer stop()
		err := fn(gctx)
		u.rss = peakRSS(cmd.Process.Pid)
		return err
	})
	err = g.Wait()
	u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if text := log.String(); err != nil && ctx.Err() == nil && text != "" {
		err = fmt.Errorf("%w\nit has said:\n%s", err, text)
	}
	return u, err
}

var errEnded = errors.New("nobody told it to")

// tail keeps the end of what is written to it. It is safe for concurrent use.
type tail struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

// Write implements [io.Writer].
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-keptLog):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
