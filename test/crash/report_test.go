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
	minEvents   = 500.0
	minInFlight = 0.3
	minResumes  = 0.005 // 1 to 13 were seen in 200
	minPulls    = 0.01  // of real servers
	minSteps    = 0.005 // of each step of a pull, so 1 in a whole block
)

// surelyHit is how often a kind of end in a pull must have been made for one to have hit
// its step, in however few faults: each is tried several times.
const surelyHit = 3

// maxRSS is the promise on memory.
const maxRSS = 150 << 20

// report prints a block's figures and fails the test for whatever is wrong.
func report(t *testing.T, s *stage, v verdict, kinds map[string]int, recoveries []recovery, took time.Duration) {
	faults := 0
	for _, n := range kinds {
		faults += n
	}
	looks := 0
	s.each(func() { looks += s.sampler.looks })
	longest := recovery{}
	for _, r := range recoveries {
		if r.took > longest.took {
			longest = r
		}
	}
	fmt.Printf("FIGURES crash, %s, seed %d block %d: %d faults in %.0f s, events %d%s, lost %d, invented %d, reordered %d, changed %d, misplaced %d\n",
		s.mode, s.seed, s.n, faults, took.Seconds(), v.events, split(s, v), v.wrong[lost], v.wrong[invented], v.wrong[reordered], v.wrong[changed], v.wrong[misplaced])
	fmt.Printf("FIGURES crash, %s, seed %d block %d: duplicates %d explained, %d unexplained; saved too early %d, confirmed too early %d, at %d looks\n",
		s.mode, s.seed, s.n, v.repeated, v.wrong[unexpected], v.wrong[early], v.wrong[ahead], looks)
	fmt.Printf("FIGURES crash, %s, seed %d block %d: peak RSS %.0f MiB, longest recovery %.2f s (%s), instances %d, problems %d\n",
		s.mode, s.seed, s.n, float64(s.peakRSS())/(1<<20), longest.took.Seconds(), longest.fault, len(s.instances), len(s.problems))
	for _, line := range byKind(kinds, recoveries) {
		fmt.Printf("FIGURES crash, %s, %s\n", s.mode, line)
	}
	for _, what := range slices.Sorted(maps.Keys(v.wrong)) {
		t.Errorf("%s: %d", what, v.wrong[what])
	}
	if len(v.examples) > 0 {
		t.Log(strings.Join(v.examples, "\n"))
	}
	if rss := s.peakRSS(); rss > maxRSS {
		t.Errorf("peak RSS %d bytes, want at most %d", rss, maxRSS)
	}
	minimum(t, "events", v.events, minEvents*float64(faults))
	minimum(t, "faults that hit records in flight", v.inFlight, minInFlight*float64(faults))
	minimum(t, "resumes inside a transaction", s.resumes(), minResumes*float64(faults)/float64(s.shards)) // each has a share of its rows
	if s.real {
		minimum(t, "instances that ended in a pull", s.pullsEnded(), minPulls*float64(faults))
		reportPulls(t, s, kinds, faults)
	}
}

// reportPulls prints for each step of a pull, without a standby and with one, how often
// walpost was ended in it, and fails the test if that was too seldom.
func reportPulls(t *testing.T, s *stage, kinds map[string]int, faults int) {
	t.Helper()
	for _, beside := range []string{"", besideStandby} {
		pulled := 0
		for _, step := range pullSteps {
			var kills, stops, missed int
			for _, e := range s.pullEnds {
				switch {
				case e.step != step.name || (e.next != nil) != (beside != ""):
					continue
				case !e.hit:
					missed++
					continue
				case e.kill:
					kills++
				default:
					stops++
				}
				if e.next != nil && strings.Contains(e.next.Log(), pullBegins) {
					pulled++
				}
			}
			fmt.Printf("FIGURES crash, %s, seed %d block %d: %s%s: by kill -9 %d, by SIGTERM %d, missed %d\n", s.mode, s.seed, s.n, step.name, beside, kills, stops, missed)
			atLeast(t, step.name+beside, kills+stops, leastHits(kinds[step.name+beside], faults, *onlyFaults != ""))
		}
		if beside != "" {
			minimum(t, "standbys that went on with a pull", pulled, minSteps*float64(faults))
		}
	}
}

// leastHits is how often a step must have been hit of a kind that was made so many times
// in a block. With some kinds only, those that were not made need none.
func leastHits(made, faults int, only bool) int {
	least := int(minSteps * float64(faults))
	if only {
		least = 0
	}
	if made >= surelyHit {
		least = max(1, least)
	}
	return least
}

// minimum holds for all kinds together, and for nothing with -only.
func minimum(t *testing.T, what string, got int, want float64) {
	t.Helper()
	if *onlyFaults != "" {
		want = 0
	}
	atLeast(t, what, got, int(want))
}

func atLeast(t *testing.T, what string, got, want int) {
	t.Helper()
	fmt.Printf("FIGURES crash, minimum: %s %d, at least %d\n", what, got, want)
	if got < want {
		t.Errorf("%s: %d, want at least %d for the block to show something", what, got, want)
	}
}

// byKind returns a line for each kind of fault: how often, and the median and the
// longest recovery of those that another fault did not follow at once.
func byKind(kinds map[string]int, recoveries []recovery) []string {
	took := map[string][]time.Duration{}
	for _, r := range recoveries {
		took[r.fault] = append(took[r.fault], r.took)
	}
	var lines []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		line := fmt.Sprintf("fault %s: %d times", kind, kinds[kind])
		if all := took[kind]; len(all) > 0 {
			slices.Sort(all)
			line += fmt.Sprintf(", recovery median %.2f s, longest %.2f s", all[len(all)/2].Seconds(), all[len(all)-1].Seconds())
		}
		lines = append(lines, line)
	}
	return lines
}
