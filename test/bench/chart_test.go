package main

import (
	"strings"
	"testing"
)

func TestThousands(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1_234_567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) is %q, want %q", n, got, want)
		}
	}
}

// Figures that were stored before there were any of the servers' CPU still make a chart,
// and so does a contender that took nothing.
func TestChartOfOldFigures(t *testing.T) {
	r := report{
		Backlogs:  []backlogReport{{workload: workload{Name: firstRecord}, Contenders: []backlogFigures{{Name: floorTCP}, {Name: walpostTCP, Median: sample{Wall: 1}}}}},
		Latencies: []latencyReport{{Load: "1000/s", Contender: walpostTCP}},
	}
	chart := r.chart()
	for _, want := range []string{"start to first record", "not measured", "1.00 s", "Latency at 1000/s"} {
		if !strings.Contains(chart, want) {
			t.Errorf("no %q in the chart", want)
		}
	}
	if strings.Contains(chart, "NaN") || strings.Contains(chart, `width="-`) {
		t.Error("a bar has no width")
	}
}
