package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
)

// watchInterval is the time between two looks, each of which takes a second.
const watchInterval = time.Second

// watchStatus shows the status until ctx is done. What fails is shown too, beside documents on
// stderr, and tried again.
func (c *cli) watchStatus(ctx context.Context, cfg config.Config, instances []string) error {
	for {
		screen, err := c.screen(lookAtStatus(ctx, cfg, instances))
		if err != nil {
			return err
		}
		if ctx.Err() == nil {
			if err := c.refresh(screen); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchInterval):
		}
	}
}

// screen is the status, or why there is none; a document or nothing with --output json.
func (c *cli) screen(s statusReport, failed error) (string, error) {
	switch {
	case failed != nil && c.output == "json":
		if !errors.Is(failed, context.Canceled) {
			c.complain(cdc.OneLine(failed), "")
		}
		return "", nil
	case failed != nil:
		return fmt.Sprintf("walpost: %s\n", cdc.OneLine(failed)), nil
	}
	var text bytes.Buffer
	shown := cli{stdout: &text, output: c.output}
	err := shown.print(s, s.print)
	return text.String(), err
}

// refresh writes a screen over the one before, without a flicker. What is no terminal gets one
// after the other.
func (c *cli) refresh(text string) error {
	f, ok := c.stdout.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || c.output == "json" {
		_, err := io.WriteString(c.stdout, text)
		return err
	}
	const home, endOfLine, endOfScreen = "\x1b[H", "\x1b[K", "\x1b[J"
	clock := time.Now().Format(time.TimeOnly)
	text = "walpost status, " + clock + ", Ctrl-C ends\n\n" + text
	_, err := io.WriteString(c.stdout, home+strings.ReplaceAll(text, "\n", endOfLine+"\n")+endOfScreen)
	return err
}
