package crash

import (
	"crypto/md5" //nolint:gosec // compares bytes; nobody attacks
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/test/harness"
)

// bench is a ledger of two committed events of one key, and their records.
type bench struct {
	*ledger
	ids    []uuid.UUID
	offset int64
}

func newBench() *bench {
	b := &bench{ledger: newLedger([]string{"crash-0"}, 4)}
	k := &key{name: "k", route: "0"}
	for n := int64(1); n <= 2; n++ {
		tx := &transaction{before: cdc.LSN(100 * n)}
		tx.events = []*event{{tx: tx, part: &part{left: 1}, key: k, seq: n, sum: md5.Sum([]byte{byte(n)})}}
		id := uuid.UUID{15: byte(n)}
		b.ids = append(b.ids, id)
		b.expect([]uuid.UUID{id}, tx.events)
		b.commit([]uuid.UUID{id}, tx, tx.before+50)
	}
	return b
}

// arrive records event n, as change has changed it.
func (b *bench) arrive(n int, change ...func(*kgo.Record)) {
	rec := &kgo.Record{
		Topic: "crash-0", Key: []byte("k"), Value: []byte{byte(n)}, Offset: b.offset, Partition: harness.Murmur2Partition([]byte("k"), 4),
		Headers: []kgo.RecordHeader{
			{Key: "id", Value: []byte(b.ids[n-1].String())},
			{Key: "eventType", Value: []byte(eventType)},
			{Key: "walpost-lsn", Value: []byte(cdc.LSN(100*n + 10).String())},
		},
	}
	for _, c := range change {
		c(rec)
	}
	b.offset++
	b.record(rec)
}

// The checker sees each kind of wrong, and nothing where there is none.
func TestChecker(t *testing.T) {
	now := time.Now()
	kill := interruption{from: now.Add(-time.Second), until: now.Add(time.Second), saved: 120}
	drain := interruption{from: kill.from, until: kill.until, whole: now.Add(time.Minute)}
	saved := func(lsn cdc.LSN, end int64) []sample { return []sample{{lsn: lsn, ends: []int64{end, end, end, end}}} }
	for name, c := range map[string]struct {
		arrive  func(b *bench)
		samples []sample
		reasons []interruption
		want    string
	}{
		"all well":              {func(b *bench) { b.arrive(1); b.arrive(2) }, saved(250, 2), nil, ""},
		"lost":                  {func(b *bench) { b.arrive(1) }, nil, nil, lost},
		"reordered":             {func(b *bench) { b.arrive(2); b.arrive(1) }, nil, nil, reordered},
		"a repeat in between":   {func(b *bench) { b.arrive(1); b.arrive(2); b.arrive(1); b.arrive(2) }, nil, []interruption{{from: kill.from, until: kill.until}}, ""},
		"for no reason":         {func(b *bench) { b.arrive(1); b.arrive(2); b.arrive(2) }, nil, nil, unexpected},
		"after a kill":          {func(b *bench) { b.arrive(1); b.arrive(2); b.arrive(2) }, nil, []interruption{kill}, ""},
		"saved before the kill": {func(b *bench) { b.arrive(1); b.arrive(2); b.arrive(1) }, nil, []interruption{{from: kill.from, until: kill.until, saved: 150}}, unexpected},
		"acknowledged before the drain ran out": {
			func(b *bench) { b.arrive(1); b.arrive(2); b.arrive(1) }, nil, []interruption{drain}, unexpected,
		},
		"value":     {func(b *bench) { b.arrive(1); b.arrive(2, func(r *kgo.Record) { r.Value = nil }) }, nil, nil, changed},
		"header":    {func(b *bench) { b.arrive(1); b.arrive(2, func(r *kgo.Record) { r.Headers[2].Value = []byte("0/1") }) }, nil, nil, changed},
		"partition": {func(b *bench) { b.arrive(1); b.arrive(2, func(r *kgo.Record) { r.Partition = (r.Partition + 1) % 4 }) }, nil, nil, misplaced},
		"invented":  {func(b *bench) { b.arrive(1); b.arrive(2); b.ids[0][0]++; b.arrive(1) }, nil, nil, invented},
		"saved before it came": {
			func(b *bench) { b.arrive(1); b.arrive(2) }, saved(250, 1), nil, early,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench()
			c.arrive(b)
			v := judge(b.ledger, account{samples(c.samples), c.reasons})
			if n := len(v.wrong); c.want == "" && n > 0 || c.want != "" && (n != 1 || v.wrong[c.want] == 0) {
				t.Errorf("wrong: %v, want %q", v.wrong, c.want)
			}
		})
	}
}

// The same seed makes the same plan, and a long one has each kind.
func TestPlan(t *testing.T) {
	s := &stage{seed: 7, n: 3}
	faults := append(append([]fault{}, processFaults...), postgresFaults...)
	kinds := map[string]bool{}
	again := plan(faults, blockSize, s.random(faultStream))
	for i, p := range plan(faults, blockSize, s.random(faultStream)) {
		kinds[p.name] = true
		if p.name != again[i].name || p.seed != again[i].seed || p.moment != again[i].moment {
			t.Fatalf("fault %d is %s %v %d, and then %s %v %d", i, p.name, p.moment, p.seed, again[i].name, again[i].moment, again[i].seed)
		}
	}
	if len(kinds) != len(faults) {
		t.Errorf("%d of %d kinds in a block", len(kinds), len(faults))
	}
}

// What one shard has saved, and why its events may come again, says nothing about those
// of another.
func TestLeastHits(t *testing.T) {
	for _, c := range []struct {
		made, faults int
		only         bool
		want         int
	}{
		{0, 20, false, 0},
		{2, 20, false, 0},
		{3, 20, false, 1},
		{1, 200, false, 1},
		{0, 200, true, 0},
		{2, 10, true, 0},
		{3, 10, true, 1},
		{9, 400, false, 2},
	} {
		if got := leastHits(c.made, c.faults, c.only); got != c.want {
			t.Errorf("made %d times in %d faults, only some kinds %t: got %d, want %d", c.made, c.faults, c.only, got, c.want)
		}
	}
}

func TestCheckerOfShards(t *testing.T) {
	now := time.Now()
	kill := []interruption{{from: now.Add(-time.Second), until: now.Add(time.Second)}}
	saved := samples{{lsn: 250, ends: []int64{0, 0, 0, 0}}}
	for name, c := range map[string]struct {
		arrive        func(b *bench)
		theirs, other account
		want          string
	}{
		"a repeat after their kill":    {func(b *bench) { b.arrive(1); b.arrive(2); b.arrive(2) }, account{samples(nil), kill}, account{saved: samples(nil)}, ""},
		"a repeat after another's":     {func(b *bench) { b.arrive(1); b.arrive(2); b.arrive(2) }, account{saved: samples(nil)}, account{samples(nil), kill}, unexpected},
		"saved early":                  {func(b *bench) { b.arrive(1); b.arrive(2) }, account{saved: saved}, account{saved: samples(nil)}, early},
		"saved by another in the time": {func(b *bench) { b.arrive(1); b.arrive(2) }, account{saved: samples(nil)}, account{saved: saved}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench()
			for _, ev := range b.events {
				ev.key.shard = 1
			}
			c.arrive(b)
			v := judge(b.ledger, c.other, c.theirs)
			if n := len(v.wrong); c.want == "" && n > 0 || c.want != "" && (n != 1 || v.wrong[c.want] == 0) {
				t.Errorf("wrong: %v, want %q", v.wrong, c.want)
			}
			if v.shares[0] != 0 || v.shares[1] != 2 {
				t.Errorf("shares %v, want all of shard 1", v.shares)
			}
		})
	}
}
