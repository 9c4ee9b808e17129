// Package progress shows on a terminal how far a long piece of work is.
package progress

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Bar shows how far a phase is. Where w is no terminal it shows nothing.
type Bar struct{ *progressbar.ProgressBar }

// New returns a bar for a phase of n steps, which are counted.
func New(w io.Writer, phase string, n int64) Bar {
	return newBar(w, phase, n, progressbar.OptionShowCount(), progressbar.OptionShowIts())
}

// NewBytes returns a bar for a phase of n bytes.
func NewBytes(w io.Writer, phase string, n int64) Bar {
	return newBar(w, phase, n, progressbar.OptionShowBytes(true), progressbar.OptionShowTotalBytes(true))
}

func newBar(w io.Writer, phase string, n int64, opts ...progressbar.Option) Bar {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return Bar{progressbar.DefaultSilent(n)}
	}
	return Bar{progressbar.NewOptions64(n, append(opts, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(phase),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())...)}
}

// Set shows that n steps are done. What cannot be shown is not needed.
func (b Bar) Set(n int64) { _ = b.Set64(n) }

// At returns what was set last.
func (b Bar) At() int { return int(b.State().CurrentNum) }

// Done leaves the line to what comes next.
func (b Bar) Done() { _ = b.Clear() }
