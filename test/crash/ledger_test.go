package crash

import (
	"cmp"
	"crypto/md5" //nolint:gosec // compares bytes; nobody attacks
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/test/harness"
)

// key is one aggregate. Its events are numbered in commit order: it belongs to
// one session, or is locked from its number on until the end of the transaction.
type key struct {
	name  string
	route string
	shard int
	next  int64 // owned by who may write the key

	last int64 // highest number seen; guarded by ledger.mu
}

// event is one outbox row that was, or is about to be, committed.
type event struct {
	tx   *transaction
	part *part
	key  *key
	seq  int64
	sum  harness.Digest
	null bool

	parked bool // it may come long after a position that covers it: it waits among the dead letters

	// What came of it; guarded by ledger.mu.
	seen      int
	at        int64 // append time of the first record, in Unix ms
	visible   int64 // when a consumer could read it, in Unix ms
	partition int32 // of all topics' partitions, counted through
	offset    int64
	lsn       cdc.LSN // commit, as the record's header has it
}

// transaction is what its events share.
type transaction struct {
	before    cdc.LSN // end of WAL ahead of the commit
	after     cdc.LSN // end of WAL behind it; zero until it is known to have committed
	committed int64   // Unix ms when the writer knew
	events    []*event
}

// part is what one shard publishes of a transaction.
type part struct {
	last int64 // append time of the last of its first records; guarded by ledger.mu
	left int   // events not seen; guarded by ledger.mu
}

// repeat is a record whose event was there already.
type repeat struct {
	id uuid.UUID
	ev *event
	at int64 // append time, Unix ms
}

// ledger holds every event that the writer committed, and what Kafka holds of it.
// Its methods may be called from any goroutine.
type ledger struct {
	topics     []string
	partitions int32 // of each topic
	committed  bool  // only records of committed transactions are read

	mu       sync.Mutex
	events   map[uuid.UUID]*event
	pending  map[uuid.UUID]*event // in a commit under way
	optional map[uuid.UUID]bool   // rows that may be events: their table became a partition later
	repeats  []repeat
	ends     []int64 // by partition of all topics, counted through: what was read
	faults   []begun
	wrong    map[string]int // records by what is wrong with them
	examples []string
}

// begun is a fault and when it came.
type begun struct {
	at   int64 // Unix ms
	name string
}

// begin says that a fault comes now.
func (l *ledger) begin(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, begun{at: time.Now().UnixMilli(), name: name})
}

// after names the fault that was the last at a time.
func (l *ledger) after(at int64) string {
	n, _ := slices.BinarySearchFunc(l.faults, at, func(b begun, at int64) int { return cmp.Compare(b.at, at) })
	if n == 0 {
		return "before the first fault"
	}
	return fmt.Sprintf("after fault %d, %s", n, l.faults[n-1].name)
}

// What may be wrong.
const (
	lost       = "lost"
	invented   = "invented"
	reordered  = "reordered"
	changed    = "changed"
	misplaced  = "misplaced"
	early      = "saved early"     // before it was in Kafka
	ahead      = "confirmed early" // before it was saved
	unexpected = "repeated for no reason"
)

func newLedger(topics []string, partitions int32) *ledger {
	return &ledger{
		topics: topics, partitions: partitions,
		events: map[uuid.UUID]*event{}, pending: map[uuid.UUID]*event{}, optional: map[uuid.UUID]bool{}, wrong: map[string]int{},
		ends: make([]int64, len(topics)*int(partitions)),
	}
}

// expect says that these events will be committed now, or not.
func (l *ledger) expect(ids []uuid.UUID, events []*event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, id := range ids {
		l.pending[id] = events[i]
	}
}

// allow says that these rows may come, or not.
func (l *ledger) allow(rows []row) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rows {
		l.optional[uuid.MustParse(r.id)] = true
	}
}

// commit says that the transaction was committed before after.
func (l *ledger) commit(ids []uuid.UUID, tx *transaction, after cdc.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tx.after, tx.committed = after, time.Now().UnixMilli()
	for i, id := range ids {
		delete(l.pending, id)
		l.events[id] = tx.events[i]
	}
}

// abort says that the transaction was not committed.
func (l *ledger) abort(ids []uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if ev := l.pending[id]; ev.seen > 0 {
			l.fault(invented, ev.at, "%s, key %s seq %d, of a transaction that was rolled back", id, ev.key.name, ev.seq)
		}
		delete(l.pending, id)
	}
}

// fault counts what went wrong at a time, in Unix ms. l.mu must be held.
func (l *ledger) fault(what string, at int64, format string, args ...any) {
	l.wrong[what]++
	if l.wrong[what] <= 5 {
		l.examples = append(l.examples, what+" "+l.after(at)+": "+fmt.Sprintf(format, args...))
	}
}

// record takes a record from Kafka, in order within its partition, also the markers
// that end transactions, which are no events. One that it has had is left out: a
// consumer may go back when a leader moves.
func (l *ledger) record(rec *kgo.Record) {
	at := rec.Timestamp.UnixMilli()
	if rec.Attrs.TimestampType() != 1 { // not the broker's append time
		at = time.Now().UnixMilli()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	partition := l.index(rec)
	if rec.Offset < l.ends[partition] {
		return
	}
	l.ends[partition] = rec.Offset + 1
	if rec.Attrs.IsControl() {
		return
	}
	id, ev := l.find(rec)
	if ev == nil && l.optional[id] {
		return
	}
	if ev == nil {
		l.fault(invented, at, "%s/%d@%d, id %s", rec.Topic, rec.Partition, rec.Offset, id)
		return
	}
	l.compare(id, ev, rec, at)
	if ev.seen++; ev.seen > 1 {
		l.repeats = append(l.repeats, repeat{id: id, ev: ev, at: at})
		return
	}
	ev.at, ev.partition, ev.offset = at, partition, rec.Offset
	if ev.visible = at; l.committed {
		ev.visible = max(at, time.Now().UnixMilli()) // it waited for the commit
	}
	ev.part.left--
	ev.part.last = max(ev.part.last, at)
	if ev.key.last > ev.seq {
		l.fault(reordered, at, "%s, key %s, seq %d after %d", id, ev.key.name, ev.seq, ev.key.last)
	}
	ev.key.last = max(ev.key.last, ev.seq)
}

// find reads the header id, which must be the first.
func (l *ledger) find(rec *kgo.Record) (uuid.UUID, *event) {
	if len(rec.Headers) == 0 || rec.Headers[0].Key != "id" {
		return uuid.Nil, nil
	}
	id, err := uuid.Parse(string(rec.Headers[0].Value))
	if err != nil || id.String() != string(rec.Headers[0].Value) {
		return uuid.Nil, nil
	}
	if ev := l.events[id]; ev != nil {
		return id, ev
	}
	return id, l.pending[id]
}

// compare checks all of a record but its place in the order. The position in the
// headers must be the same in every repeat, and one that the commit can have.
func (l *ledger) compare(id uuid.UUID, ev *event, rec *kgo.Record, at int64) {
	text, _ := header(rec, "walpost-lsn")
	lsn, err := cdc.ParseLSN(text)
	kind, _ := header(rec, "eventType")
	switch {
	case string(rec.Key) != ev.key.name, rec.Topic != l.topic(ev.key.route), kind != eventType:
		l.fault(changed, at, "%s: topic %s, key %q, type %q", id, rec.Topic, rec.Key, kind)
	case (rec.Value == nil) != ev.null, !ev.null && md5.Sum(rec.Value) != ev.sum:
		l.fault(changed, at, "%s, key %s seq %d: value of %d bytes", id, ev.key.name, ev.seq, len(rec.Value))
	case err != nil, lsn < ev.tx.before, ev.tx.after != 0 && lsn >= ev.tx.after, ev.lsn != 0 && lsn != ev.lsn:
		l.fault(changed, at, "%s: header walpost-lsn %q, want one between %s and %s, before it was %s", id, text, ev.tx.before, ev.tx.after, ev.lsn)
	}
	ev.lsn = lsn
	if want := harness.Murmur2Partition(rec.Key, l.partitions); rec.Partition != want {
		l.fault(misplaced, at, "%s, key %q: partition %d, want %d", id, rec.Key, rec.Partition, want)
	}
}

func (l *ledger) topic(route string) string {
	n, _ := strconv.Atoi(route) // routes are numbers of topics
	return l.topics[n]
}

// index counts the partitions of all topics through.
func (l *ledger) index(rec *kgo.Record) int32 {
	return int32(slices.Index(l.topics, rec.Topic))*l.partitions + rec.Partition
}

func header(rec *kgo.Record, name string) (string, bool) {
	for _, h := range rec.Headers {
		if h.Key == name {
			return string(h.Value), true
		}
	}
	return "", false
}

// seen reports whether all of the events can be read from Kafka, and since when.
func (l *ledger) seen(events []*event) (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var last int64
	for _, ev := range events {
		if ev.seen == 0 {
			return time.Time{}, false
		}
		last = max(last, ev.visible)
	}
	return time.UnixMilli(last), true
}

// counts returns how many events are committed, and how many of these are not in
// Kafka yet. It costs as much as there are events.
func (l *ledger) counts() (committed, missing int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ev := range l.events {
		if ev.seen == 0 {
			missing++
		}
	}
	return len(l.events), missing
}

// records returns how many records were read of all topics, and markers.
func (l *ledger) records() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, end := range l.ends {
		n += end
	}
	return n
}

// size returns how many events are committed.
func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.events)
}
