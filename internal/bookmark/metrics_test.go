package bookmark

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Each bookmark has its metrics, up to a bound; what is more is logged once.
func TestMetrics(t *testing.T) {
	var log bytes.Buffer
	m := NewMetrics(slog.New(slog.NewTextHandler(&log, nil)))
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(m)
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	since := time.Now().Add(-time.Hour)
	m.Set([]Bookmark{{Name: "old", Retained: 17, Since: &since}, {Name: "undated", Retained: 5}})
	want := `# HELP walpost_bookmark_retained_bytes WAL that the bookmark keeps on the server's disk.
# TYPE walpost_bookmark_retained_bytes gauge
walpost_bookmark_retained_bytes{bookmark="old"} 17
walpost_bookmark_retained_bytes{bookmark="undated"} 5
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "walpost_bookmark_retained_bytes"); err != nil {
		t.Error(err)
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 2 || len(families[0].GetMetric()) != 1 {
		t.Fatalf("got %v, %v, want the age of one", families, err)
	}
	if age := families[0].GetMetric()[0].GetGauge().GetValue(); age < 3600 || age > 3700 {
		t.Errorf("the age is %v s, want an hour", age)
	}

	var many []Bookmark
	for i := range maxMetrics + 3 {
		many = append(many, Bookmark{Name: fmt.Sprintf("b%02d", i)})
	}
	m.Set(many)
	m.Set(many)
	if n, err := testutil.GatherAndCount(reg, "walpost_bookmark_retained_bytes"); err != nil || n != maxMetrics {
		t.Errorf("%d bookmarks have metrics, %v, want %d", n, err, maxMetrics)
	}
	if got := strings.Count(log.String(), "not all bookmarks have metrics"); got != 1 {
		t.Errorf("that is logged %d times, want once:\n%s", got, &log)
	}
	m.Set(nil)
	if n, err := testutil.GatherAndCount(reg); err != nil || n != 0 {
		t.Errorf("%d metrics of no bookmarks, %v", n, err)
	}
}
