package inspect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// Verdict is what a check came to.
type Verdict string

// The verdicts.
const (
	OK   Verdict = "ok"
	Warn Verdict = "warn" // works now
	Fail Verdict = "fail" // does not work, or will lose events
)

// Check is one thing that was looked at.
type Check struct {
	Name    string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Text    string  `json:"text"`
	Mend    string  `json:"mend,omitempty"` // what to do; empty if nothing
}

// checkTimeout bounds a check.
const checkTimeout = 10 * time.Second

// look is a check to be made. It returns nil if there is nothing to look at here.
type look struct {
	name string
	make func(ctx context.Context) (*Check, error)
}

// makeAll makes the checks in turn. An error is a failed check.
func makeAll(ctx context.Context, looks []look) []Check {
	var all []Check
	for _, l := range looks {
		lctx, cancel := context.WithTimeout(ctx, checkTimeout)
		c, err := l.make(lctx)
		cancel()
		if err != nil {
			c = failed(err)
		}
		if c != nil {
			c.Name = l.name
			all = append(all, *c)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return all
}

// failed makes a check of an error, with its hint.
func failed(err error) *Check {
	c := &Check{Verdict: Fail, Text: cdc.OneLine(err)}
	var refused *cdc.RefusedError
	if errors.As(err, &refused) {
		c.Mend = refused.Hint
	}
	return c
}

func ok(format string, args ...any) (*Check, error) {
	return &Check{Verdict: OK, Text: fmt.Sprintf(format, args...)}, nil
}

func warn(mend, format string, args ...any) (*Check, error) {
	return &Check{Verdict: Warn, Text: fmt.Sprintf(format, args...), Mend: mend}, nil
}

func fail(mend, format string, args ...any) (*Check, error) {
	return &Check{Verdict: Fail, Text: fmt.Sprintf(format, args...), Mend: mend}, nil
}
