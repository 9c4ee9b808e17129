// Package crash breaks everything around walpost, and walpost itself, in an order
// that a seed decides, and checks from the outside that its promises hold: nothing
// lost, invented, reordered, changed or misplaced, nothing saved before it is in
// Kafka, and no repeat but for a reason. With exactly-once it reads what is committed
// in Kafka, and there is no reason for a repeat.
//
// A run goes in blocks, each with servers and a table of its own, which a seed and
// a number name: -seed 7 -block 3 does again what was done as the fourth block of
// a long run. The plan of faults, what they do and after how many events, and what
// the writer writes come from the seed; how the machine schedules it does not.
package crash

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/rs/zerolog"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

var (
	faultCount = flag.Int("faults", 20, "how many faults; those of the in-process broker are a fifth more")
	seedFlag   = flag.Uint64("seed", 0, "seed of the plan and of the writer; 0 takes one from the clock")
	firstBlock = flag.Int("block", 0, "number of the first block, to go on where a run stopped")
	guarantee  = flag.String("guarantee", "", "at-least-once or exactly-once; empty for both, with a quarter less faults in the second, and a quarter of the first with shards")
	shardCount = flag.Int("shards", 1, "how many walposts share the keys")
	onlyFaults = flag.String("only", "", "regular expression: faults to take, all others are left out")
)

// The values of delivery.guarantee.
const (
	atLeastOnce = "at-least-once"
	exactlyOnce = "exactly-once"
)

// blockSize is how many faults share their servers.
const blockSize = 200

var binDir string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "walpost-crash-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binDir = dir
	zerolog.SetGlobalLevel(zerolog.Disabled) // the proxies' toxics log past their own logger
	return envtest.Main(m, harness.ProxyGoroutines()...)
}
