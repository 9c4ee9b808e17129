package integration

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// The page goes on by itself, without a reload and without a jump, and what it says is what
// the metrics say. It fits a narrow screen, and the keyboard reaches what opens.
func TestPageLive(t *testing.T) {
	path := browser(t)
	s := newStage(t, envtest.NewDatabase(t), envtest.Kafka(t).Addrs())
	p := s.start("run")
	s.fill(harness.OneRow, 1, 100)
	s.checkpoint()
	page := harness.OpenPage(t, path, "http://"+s.admin+"/")
	page.Resize(1280, 1000)
	shown := func(id string) string { return page.Eval(`document.getElementById("` + id + `")?.textContent ?? ""`) }
	says := func(id, want string) {
		t.Helper()
		got := ""
		harness.Eventually(t, 30*time.Second, "the page says "+want, func() bool { got = shown(id); return strings.Contains(got, want) })
	}
	says("total", "100 since the start")
	page.Eval(`window.jumps = []; window.loaded = "once"; new PerformanceObserver(l => l.getEntries().forEach(e =>
		jumps.push(...e.sources.filter(s => s.currentRect.y != s.previousRect.y).map(s => (s.node?.id || s.node?.nodeName) + " by " + (s.currentRect.y - s.previousRect.y))))).observe({type: "layout-shift"})`)

	before := s.buckets()
	s.fill(harness.OneRow, 101, 600)
	says("total", "600 since the start")
	if page.Eval("window.loaded") != "once" {
		t.Error("the page was loaded again")
	}
	at := s.checkpoint()
	says("positions", at)

	low, high := median(before, s.buckets())
	took, err := time.ParseDuration(strings.ReplaceAll(shown("p50"), " ", ""))
	must(t, err)
	const rounding = 0.0005
	if took.Seconds() < low-rounding || took.Seconds() > high+rounding {
		t.Errorf("the page says that the median is %s, and the metrics that it is from %g to %g s", took, low, high)
	}
	for id, metric := range map[string]string{"retained": "walpost_slot_retained_bytes", "lagbytes": "walpost_lag_bytes", "inflightbytes": "walpost_in_flight_bytes"} {
		harness.Eventually(t, 30*time.Second, "the page shows "+metric, func() bool {
			v, ok := harness.Metric(t.Context(), s.admin, metric)
			return ok && strings.HasPrefix(shown(id), page.Eval(fmt.Sprintf("bytes(%f)", v)))
		})
	}

	if jumps := page.Eval(`jumps.join(", ")`); jumps != "" {
		t.Errorf("the layout has jumped: %s", jumps) // along a line words may move, where a number before them grows
	}

	page.Press("Tab")
	for range 10 {
		if page.Eval(`document.activeElement.parentElement.id`) == "settings" {
			break
		}
		page.Press("Tab")
	}
	page.Press("Enter")
	says("config", "delivery.guarantee")
	page.Resize(360, 1600)
	if page.Eval("document.documentElement.scrollWidth > innerWidth") != "false" {
		t.Error("the page is wider than a screen of 360 pixels")
	}
	s.stop(p)
}

// buckets are the cumulative counts of the latencies, by their upper limits in seconds.
func (s *stage) buckets() map[float64]float64 {
	s.t.Helper()
	all := make(map[float64]float64)
	for line := range strings.Lines(harness.Metrics(s.t.Context(), s.admin)) {
		var limit, n float64
		if _, err := fmt.Sscanf(line, `walpost_publish_latency_seconds_bucket{le="%g"} %g`, &limit, &n); err == nil {
			all[limit] = n
		}
	}
	return all
}

// median returns the limits of the bucket of the median of what has been counted since before.
func median(before, now map[float64]float64) (low, high float64) {
	limits := slices.Sorted(maps.Keys(now))
	total := now[limits[len(limits)-1]] - before[limits[len(limits)-1]]
	for _, high = range limits {
		if now[high]-before[high] >= total/2 {
			break
		}
		low = high
	}
	return low, high
}
