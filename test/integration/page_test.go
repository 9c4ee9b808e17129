package integration

import (
	"bytes"
	"image/png"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// screenshots is a folder to keep the pictures of the page in.
const screenshots = "WALPOST_TEST_SCREENSHOTS"

// browser is a real one, without a window.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := osexec.LookPath(name); err == nil {
			return path
		}
	}
	const missing = "no Chromium is installed"
	if os.Getenv("CI") != "" || os.Getenv(envtest.RequireVariable) != "" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

func (s *stage) browse(path string, args ...string) []byte {
	s.t.Helper()
	args = append([]string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=" + s.t.TempDir(), "--virtual-time-budget=5000"}, args...)
	cmd := osexec.CommandContext(s.t.Context(), path, append(args, "http://"+s.admin+"/")...)
	cmd.WaitDelay = 10 * time.Second
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%v\n%s", err, &complaints)
	}
	return out
}

// The status page shows in a real browser what the metrics say, in each width and colour.
func TestPage(t *testing.T) {
	path := browser(t)
	const n = 1234
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("run")
	s.fill(harness.OneRow, 1, n)
	at := s.checkpoint()
	dom := string(s.browse(path, "--dump-dom"))
	shown := func(id string) string {
		m := regexp.MustCompile(`id="` + id + `"[^>]*>([^<]*)<`).FindStringSubmatch(dom)
		if m == nil {
			t.Fatalf("the page has no %s:\n%s", id, dom)
		}
		return m[1]
	}
	retained, _ := harness.Metric(t.Context(), s.admin, "walpost_slot_retained_bytes")
	for id, want := range map[string]string{
		"state": "streaming", "name": s.slot, "lag": "0 ms", "total": humanize.Comma(n) + " since the start", "inflight": "0", "dead": "0",
		"parked": "0 events of 0 keys wait behind them", "slotstatus": "of WAL kept on the server's disk, reserved", "reason": "",
	} {
		if got := shown(id); got != want {
			t.Errorf("%s is shown as %q, want %q", id, got, want)
		}
	}
	if got := shown("retained"); retained <= 0 || !strings.HasSuffix(got, "B") {
		t.Errorf("the slot is shown to keep %q, and keeps %.0f bytes", got, retained)
	}
	if !strings.Contains(dom, "<td>"+at+"</td>") {
		t.Errorf("the checkpoint %s is not shown", at)
	}
	dir := os.Getenv(screenshots)
	if dir == "" {
		dir = t.TempDir()
	}
	for name, args := range map[string][]string{
		"wide": {"--window-size=1280,1000"}, "narrow": {"--window-size=500,1600"},
		"dark": {"--window-size=1280,1000", "--blink-settings=preferredColorScheme=0"},
	} {
		file := filepath.Join(dir, name+".png")
		s.browse(path, append(args, "--screenshot="+file)...)
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		picture, err := png.Decode(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		corner, _, _, _ := picture.At(2, picture.Bounds().Dy()-2).RGBA()
		if dark := corner < 0x8000; dark != (name == "dark") {
			t.Errorf("%s: the background's red is %x", name, corner>>8)
		}
	}
	s.stop(p)
}

// The page of a standby says that it is one, and shows no lag.
func TestPageOfStandby(t *testing.T) {
	path := browser(t)
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	first := s.start("run")
	s.isReady(30 * time.Second)
	other := s.twin()
	second := other.start("run")
	harness.Eventually(t, 30*time.Second, "standby", func() bool { _, word := other.ready(); return word == "standby" })
	dom := string(other.browse(path, "--dump-dom"))
	for _, want := range []string{`id="state" role="status" aria-live="polite" class="good">standby<`, `id="lag">standby<`} {
		if !strings.Contains(dom, want) {
			t.Errorf("the page has no %s:\n%s", want, dom)
		}
	}
	s.stop(first)
	other.stop(second)
}
