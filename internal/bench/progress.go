package bench

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// bar shows how far a phase is, on a terminal only.
type bar struct{ *progressbar.ProgressBar }

func newBar(w io.Writer, phase string, n int) bar {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return bar{progressbar.DefaultSilent(int64(n))}
	}
	return bar{progressbar.NewOptions(n, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(phase),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())}
}

func (b bar) set(n int) { _ = b.Set(n) } // what cannot be shown is not needed

// at returns what was set last.
func (b bar) at() int { return int(b.State().CurrentNum) }

// done leaves the line to what comes next.
func (b bar) done() { _ = b.Clear() }
