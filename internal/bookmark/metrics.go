package bookmark

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxMetrics is how many bookmarks have metrics of their own, the oldest ones, which keep
// the most.
const maxMetrics = 32

// Metrics exports what bookmarks keep, as of the last Set. It implements
// [prometheus.Collector], and is safe for concurrent use.
type Metrics struct {
	log           *slog.Logger
	retained, age *prometheus.Desc

	mu     sync.Mutex
	all    []Bookmark // guarded by mu
	tooFew bool       // guarded by mu; metrics for the bookmarks, of which some have none
}

// NewMetrics returns metrics of no bookmarks.
func NewMetrics(log *slog.Logger) *Metrics {
	labels := []string{"bookmark"}
	return &Metrics{
		log:      log,
		retained: prometheus.NewDesc("walpost_bookmark_retained_bytes", "WAL that the bookmark keeps on the server's disk.", labels, nil),
		age:      prometheus.NewDesc("walpost_bookmark_age_seconds", "Time since the moment that the bookmark stands for, where that is known.", labels, nil),
	}
}

// Set replaces what is exported by what List has returned. Of more than 32 only the first
// are, which is logged once.
func (m *Metrics) Set(all []Bookmark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	tooFew := len(all) > maxMetrics
	if tooFew && !m.tooFew {
		m.log.Warn("not all bookmarks have metrics", "bookmarks", len(all), "shown", maxMetrics, "first_left_out", all[maxMetrics].Name)
	}
	m.tooFew = tooFew
	m.all = slices.Clone(all[:min(len(all), maxMetrics)])
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.retained
	ch <- m.age
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, b := range m.all {
		ch <- prometheus.MustNewConstMetric(m.retained, prometheus.GaugeValue, float64(b.Retained), b.Name)
		if b.Since != nil {
			ch <- prometheus.MustNewConstMetric(m.age, prometheus.GaugeValue, time.Since(*b.Since).Seconds(), b.Name)
		}
	}
}
