package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"
)

// fault is one way to break something. What run draws from r is the same in each
// run of a seed. Run returns when the fault is over, and calls stage.ended at the
// moment from which on recovery counts, if that is earlier. An error says that
// walpost, or a server, did not do what it must.
type fault struct {
	name   string
	weight int // how often it is drawn
	run    func(ctx context.Context, s *stage, r *rand.Rand) error
}

// moment says when a fault comes: after so many more events, or after the commit
// of a large transaction, which is then being published, and some time after that.
type moment struct {
	events int
	large  int // rows of the transaction; 0 for none
	delay  time.Duration
	hasty  bool // do not wait for the recovery from the fault before
}

// planned is one fault of a plan.
type planned struct {
	fault
	moment
	seed uint64
}

// plan draws n faults: one of each kind while there is room, the rest by weight.
func plan(faults []fault, n int, r *rand.Rand) []planned {
	var drawn []fault
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	if n >= 2*len(faults) {
		drawn = append(drawn, faults...)
	}
	for len(drawn) < n {
		at := r.IntN(total)
		for _, f := range faults {
			if at -= f.weight; at < 0 {
				drawn = append(drawn, f)
				break
			}
		}
	}
	r.Shuffle(len(drawn), func(i, j int) { drawn[i], drawn[j] = drawn[j], drawn[i] })
	all := make([]planned, n)
	for i, f := range drawn {
		all[i] = planned{fault: f, seed: r.Uint64(), moment: moment{
			events: r.IntN(300), delay: time.Duration(r.IntN(60)) * time.Millisecond, hasty: r.IntN(8) == 0,
		}}
		if r.IntN(3) == 0 {
			all[i].large = 1500 + r.IntN(4000)
		}
	}
	return all
}

// only leaves the faults whose names match the flag.
func only(t *testing.T, faults []fault) []fault {
	t.Helper()
	re, err := regexp.Compile(*onlyFaults)
	if err != nil {
		t.Fatal(err)
	}
	var kept []fault
	for _, f := range faults {
		if re.MatchString(f.name) {
			kept = append(kept, f)
		}
	}
	return kept
}

// possible leaves out the faults that the stage cannot have, and prints which. With shards
// each of the others has its sense.
func (s *stage) possible(faults []fault) (kept []fault) {
	var left []string
	for _, f := range faults {
		if f.name == diskFull && !s.tmpfs {
			left = append(left, "; "+f.name+": there is no file system to fill")
			continue
		}
		kept = append(kept, f)
	}
	fmt.Printf("FIGURES crash, %s: %d kinds of fault, %d left out%s\n", s.mode, len(kept), len(left), strings.Join(left, ""))
	return kept
}

// between draws a duration.
func between(r *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(r.Int64N(int64(high-low)))
}

// one draws one of them.
func one[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }
