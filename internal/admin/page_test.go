package admin

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walpost/walpost/pkg/cdc"
)

// The page asks nobody but the instance for anything, and the browser is told to hold it to
// that.
func TestPage(t *testing.T) {
	h := Handler(Config{Gatherer: prometheus.NewRegistry(), Settings: map[string]string{"a": "b"}, Logger: slog.New(slog.DiscardHandler)})
	get := func(path string) (*httptest.ResponseRecorder, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		return w, w.Body.String()
	}
	w, body := get("/")
	policy := w.Header().Get("Content-Security-Policy")
	if w.Code != http.StatusOK || !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "*") {
		t.Errorf("status %d, policy %q", w.Code, policy)
	}
	for _, word := range []string{"http:", "https:", "src=", "@import", "url("} {
		if strings.Contains(body, word) {
			t.Errorf("the page has %q in it", word)
		}
	}
	if w, body := get("/config"); w.Code != http.StatusOK || strings.TrimSpace(body) != `{"a":"b"}` {
		t.Errorf("status %d: %s", w.Code, body)
	}
	if w, _ := get("/elsewhere"); w.Code != http.StatusNotFound {
		t.Errorf("status %d of a path that is none", w.Code)
	}
}

func TestRecent(t *testing.T) {
	var r Recent
	log := slog.New(r.Handler(slog.NewTextHandler(io.Discard, nil)))
	log.Info("nothing")
	for range maxRecent + 5 {
		log.Warn("old")
	}
	log.With("slot", "s").Error("broken", "err", io.EOF)
	lines := r.Lines()
	if len(lines) != maxRecent || lines[0].Text != "broken slot=s err=EOF" || lines[0].Level != "ERROR" || lines[1].Text != "old" || time.Since(lines[0].Time) > time.Minute {
		t.Errorf("%d lines, the first %+v", len(lines), lines[0])
	}
}

// The report has the histogram and the slot as the metrics have them.
func TestReportTakesMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	latency := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "walpost_publish_latency_seconds", Buckets: []float64{1, 2}})
	status := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "walpost_slot_status"}, []string{"status"})
	retained := prometheus.NewGauge(prometheus.GaugeOpts{Name: "walpost_slot_retained_bytes"})
	reg.MustRegister(latency, status, retained)
	latency.Observe(0.5)
	latency.Observe(1.5)
	latency.Observe(9)
	status.WithLabelValues("reserved").Set(0)
	status.WithLabelValues("extended").Set(1)
	retained.Set(17)
	var r Report
	if err := r.Take(cdc.Status{}, reg, time.Now()); err != nil {
		t.Fatal(err)
	}
	if b := r.Latency; len(b) != 3 || *b[0].LE != 1 || b[0].Count != 1 || b[1].Count != 2 || b[2].LE != nil || b[2].Count != 3 {
		t.Errorf("got %+v", b)
	}
	if r.SlotStatus != "extended" || r.SlotRetained != 17 {
		t.Errorf("got %+v", r)
	}
}
