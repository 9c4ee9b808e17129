package crash

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// The least that a block must reach for each of its faults, or it has shown
// little.
const (
	minEvents   = 150.0
	minInFlight = 0.3
	minResumes  = 0.02
)

// report prints a block's figures and fails the test for whatever is wrong.
func report(t *testing.T, s *stage, v verdict, faults int, recoveries []recovery, took time.Duration) {
	mode := "real servers"
	if s.fake != nil {
		mode = "in-process broker"
	}
	longest := recovery{}
	for _, r := range recoveries {
		if r.took > longest.took {
			longest = r
		}
	}
	fmt.Printf("FIGURES crash, %s, seed %d block %d: %d faults in %.0f s, events %d, lost %d, invented %d, reordered %d, changed %d, misplaced %d\n",
		mode, s.seed, s.n, faults, took.Seconds(), v.events, v.wrong[lost], v.wrong[invented], v.wrong[reordered], v.wrong[changed], v.wrong[misplaced])
	fmt.Printf("FIGURES crash, %s, seed %d block %d: duplicates %d explained, %d unexplained; saved too early %d, confirmed too early %d, at %d looks\n",
		mode, s.seed, s.n, v.repeated, v.wrong[unexpected], v.wrong[early], v.wrong[ahead], s.sampler.looks)
	fmt.Printf("FIGURES crash, %s, seed %d block %d: peak RSS %.0f MiB, longest recovery %.2f s (%s), instances %d, problems %d\n",
		mode, s.seed, s.n, float64(s.peakRSS())/(1<<20), longest.took.Seconds(), longest.fault, len(s.instances), len(s.problems))
	for _, line := range byKind(recoveries) {
		fmt.Printf("FIGURES crash, %s, recovery: %s\n", mode, line)
	}
	for _, what := range slices.Sorted(maps.Keys(v.wrong)) {
		t.Errorf("%s: %d", what, v.wrong[what])
	}
	if len(v.examples) > 0 {
		t.Log(strings.Join(v.examples, "\n"))
	}
	minimum(t, "events", v.events, minEvents*float64(faults))
	minimum(t, "faults that hit records in flight", v.inFlight, minInFlight*float64(faults))
	minimum(t, "resumes inside a transaction", s.resumes(), minResumes*float64(faults))
}

func minimum(t *testing.T, what string, got int, want float64) {
	t.Helper()
	fmt.Printf("FIGURES crash, minimum: %s %d, at least %d\n", what, got, int(want))
	if got < int(want) && *onlyFaults == "" {
		t.Errorf("%s: %d, want at least %d for the block to show something", what, got, int(want))
	}
}

// byKind returns a line for each kind of fault: how often, and the median and the
// longest recovery.
func byKind(recoveries []recovery) []string {
	kinds := map[string][]time.Duration{}
	for _, r := range recoveries {
		kinds[r.fault] = append(kinds[r.fault], r.took)
	}
	var lines []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		all := kinds[kind]
		slices.Sort(all)
		lines = append(lines, fmt.Sprintf("%s %d times, median %.2f s, longest %.2f s", kind, len(all), all[len(all)/2].Seconds(), all[len(all)-1].Seconds()))
	}
	return lines
}
