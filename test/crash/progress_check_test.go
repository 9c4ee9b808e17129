package crash

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
)

// saving is a progress topic as it is read, and events with the broker's time.
type saving struct {
	*bench
	*progress
	t     *testing.T
	begun time.Time
	next  int64
}

func newSaving(t *testing.T) *saving {
	return &saving{bench: newBench(), progress: newProgress("s", true), t: t, begun: time.UnixMilli(time.Now().UnixMilli())}
}

func (s *saving) time(ms int) time.Time { return s.begun.Add(time.Duration(ms) * time.Millisecond) }

// arrive records event n, appended at a time.
func (s *saving) arrive(n, ms int) {
	s.bench.arrive(n, func(r *kgo.Record) {
		r.Timestamp = s.time(ms)
		r.Attrs = kgo.NewRecordAttrs(kgo.RecordAttrsOpts{TimestampType: 1, Transactional: true})
	})
}

// position records a position of producer 1, and mark the marker that commits it.
func (s *saving) position(slot string, lsn cdc.LSN) {
	s.t.Helper()
	value, err := json.Marshal(struct {
		Slot string `json:"slot"`
		cdc.Checkpoint
	}{slot, cdc.Checkpoint{Position: cdc.Position{LSN: lsn}, Epoch: 1}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.enter(&kgo.Record{Value: value, ProducerID: 1})
}

func (s *saving) mark(producer int64, ms int) {
	s.enter(&kgo.Record{ProducerID: producer, Timestamp: s.time(ms), Attrs: kgo.NewRecordAttrs(kgo.RecordAttrsOpts{Transactional: true, Control: true})})
}

func (s *saving) enter(r *kgo.Record) {
	r.Offset = s.next
	s.next++
	s.progress.record(r)
}

// The checker of exactly-once sees each kind of wrong, and nothing where there is
// none.
func TestCheckerOfCommits(t *testing.T) {
	for name, c := range map[string]struct {
		happen  func(s *saving)
		samples []sample
		want    string
	}{
		"all well": {
			func(s *saving) { s.arrive(1, 1); s.arrive(2, 2); s.position("s", 250); s.mark(1, 3) },
			[]sample{{lsn: 250, ends: []int64{1}}},
			"",
		},
		"a repeat": {func(s *saving) { s.arrive(1, 1); s.arrive(2, 2); s.arrive(2, 3) }, nil, unexpected},
		"committed before the event came": {
			func(s *saving) { s.arrive(1, 1); s.position("s", 250); s.mark(1, 2); s.arrive(2, 3) }, nil, early,
		},
		"another slot's": {func(s *saving) { s.arrive(1, 1); s.position("x", 250); s.mark(1, 2); s.arrive(2, 3) }, nil, ""},
		"confirmed before it was written": {
			func(s *saving) {
				s.arrive(1, 1)
				s.arrive(2, 2)
				s.position("s", 150)
				s.mark(1, 3)
				s.position("s", 250)
				s.mark(1, 4)
			},
			[]sample{{lsn: 250, ends: []int64{2}}},
			ahead,
		},
		"confirmed and never committed": {
			func(s *saving) { s.arrive(1, 1); s.arrive(2, 2); s.position("s", 250); s.mark(2, 3) },
			[]sample{{lsn: 250, ends: []int64{1}}},
			ahead,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSaving(t)
			c.happen(s)
			judgeCommits(s.ledger, s.progress.all, c.samples)
			v := judge(s.ledger, account{saved: s.progress.all})
			if n := len(v.wrong); c.want == "" && n > 0 || c.want != "" && (n != 1 || v.wrong[c.want] == 0) {
				t.Errorf("wrong: %v, want %q", v.wrong, c.want)
			}
		})
	}
}

// A marker takes an offset, and is no event.
func TestMarkersAreRead(t *testing.T) {
	b := newBench()
	b.arrive(1)
	b.arrive(2, func(r *kgo.Record) {
		b.record(&kgo.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Attrs: kgo.NewRecordAttrs(kgo.RecordAttrsOpts{Transactional: true, Control: true})})
		r.Offset++
	})
	if v, n := judge(b.ledger, account{saved: samples(nil)}), b.records(); len(v.wrong) > 0 || n != 3 {
		t.Errorf("wrong: %v; read %d offsets, want 3", v.wrong, n)
	}
}
