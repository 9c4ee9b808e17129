package cdc_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
	"github.com/walpost/walpost/pkg/deadletter"
	"github.com/walpost/walpost/pkg/sink/sinktest"
)

const dlq = "dlq"

// topics is what is durable in Kafka, whichever process wrote it.
type topics struct {
	mu      sync.Mutex          // guards all below
	letters []cdc.Record        // the dead-letter topic
	events  map[string][]string // the topic t by key, in order
	stalled map[int]bool        // partitions of t, and -1 for the dead-letter topic, that keep nothing
	slow    time.Duration

	fault     cdc.LetterKind // letters that are never answered for
	faultKept bool           // and are kept all the same

	bad     map[string]bool // events that the topic does not take
	refused map[string]bool // those that the broker refuses after they were taken
	wasBad  map[string]bool
}

func newTopics() *topics {
	return &topics{events: map[string][]string{}, stalled: map[int]bool{}, bad: map[string]bool{}, refused: map[string]bool{}, wasBad: map[string]bool{}}
}

const topicPartitions = 2

// keep is the outcome of a record: in each partition all is kept in order, up to
// some moment, and what comes after that is neither kept nor answered.
func (c *topics) keep(r *cdc.Record) sinktest.Outcome {
	time.Sleep(c.slow)
	c.mu.Lock()
	defer c.mu.Unlock()
	partition := -1
	if r.Topic != dlq {
		partition = sinktest.Partition(r.Key, topicPartitions)
	}
	switch {
	case c.stalled[partition]:
		return sinktest.Outcome{Lost: true, Silent: true}
	case r.Topic != dlq && c.refused[string(r.Value)]:
		return sinktest.Outcome{Lost: true, Err: cdc.Poison(cdc.PoisonRefused, "refused by the broker")}
	case r.Topic == dlq && c.fault != "" && kindOf(r) == c.fault:
		if c.faultKept {
			c.letters = append(c.letters, cloneRecord(r))
		}
		c.stalled[-1] = true
		return sinktest.Outcome{Lost: true, Silent: true}
	case r.Topic == dlq:
		c.letters = append(c.letters, cloneRecord(r))
	default:
		c.events[string(r.Key)] = append(c.events[string(r.Key)], string(r.Value))
	}
	return sinktest.Outcome{}
}

func cloneRecord(r *cdc.Record) cdc.Record {
	c := cdc.Record{Topic: r.Topic, Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value), Partition: r.Partition, Timestamp: r.Timestamp}
	for _, h := range r.Headers {
		c.Headers = append(c.Headers, cdc.Header{Key: h.Key, Value: bytes.Clone(h.Value)})
	}
	return c
}

// Fetch implements cdc.LetterLog.
func (c *topics) Fetch(ctx context.Context, from int64) ([]cdc.Logged, error) {
	for {
		if found := c.from(from); len(found) > 0 {
			return found, nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (c *topics) from(from int64) []cdc.Logged {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []cdc.Logged
	for i := from; i < int64(len(c.letters)) && len(found) < 5; i++ {
		r := cloneRecord(&c.letters[i])
		found = append(found, cdc.Logged{Record: &r, Offset: i})
	}
	return found
}

func kindOf(r *cdc.Record) cdc.LetterKind {
	l, err := deadletter.Decode(r)
	if err != nil {
		return ""
	}
	return l.Kind
}

func (c *topics) answer(request string) *cdc.Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.letters {
		if l, err := deadletter.Decode(&c.letters[i]); err == nil && l.Kind == cdc.LetterAnswer && l.Answer.Request == request {
			return l.Answer
		}
	}
	return nil
}

func (c *topics) request(q cdc.Request) {
	c.write(&cdc.Letter{Kind: cdc.LetterRequest, Slot: "s", Request: &q})
}

// write adds a letter as another process would.
func (c *topics) write(l *cdc.Letter) {
	r := l.Event
	if r == nil {
		r = cdc.NewRecord()
	}
	l.Time = time.Now()
	deadletter.Encode(dlq, l, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.letters = append(c.letters, cloneRecord(r))
}

func (c *topics) lots(t *testing.T) *cdc.Lots {
	t.Helper()
	lots := cdc.NewLots("s")
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.letters {
		l, err := deadletter.Decode(&c.letters[i])
		if err != nil {
			t.Fatal(err)
		}
		l.Offset = int64(i)
		lots.Apply(l)
	}
	return lots
}

func (c *topics) set(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
}

func (c *topics) isBad(event string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad[event]
}

// picky is a sink whose topic refuses bad events.
type picky struct {
	*sinktest.Memory
	topics *topics
}

// reopen puts a new sink in the place of one that has given up.
func (p *picky) reopen(ctx context.Context) error {
	if err := p.Flush(ctx); err != nil {
		return err
	}
	p.Close()
	p.Memory = p.topics.sink()
	return nil
}

func (c *topics) sink() *sinktest.Memory {
	return sinktest.NewMemory(sinktest.MemoryConfig{Partitions: topicPartitions, MaxInFlight: 20, Outcome: c.keep})
}

func (p *picky) Produce(ctx context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	if r.Topic != dlq && p.topics.isBad(string(r.Value)) {
		return cdc.Poison(cdc.PoisonOversize, "too large for the topic")
	}
	return p.Memory.Produce(ctx, r, done)
}

// mourner is a pipeline with dead letters that can be restarted.
type mourner struct {
	t      *testing.T
	store  *checkpointtest.Memory
	server *server
	topics *topics
	log    *slog.Logger

	interval time.Duration // between two saves

	cancel context.CancelFunc
	ended  chan error
	sink   *picky
	p      *cdc.Pipeline
}

func newMourner(t *testing.T, txs ...scriptTx) *mourner {
	store := checkpointtest.NewMemory()
	return &mourner{t: t, store: store, server: newServer(t, store, txs...), topics: newTopics(), log: slog.New(slog.DiscardHandler), interval: 10 * time.Millisecond}
}

func (m *mourner) start() {
	ctx, cancel := context.WithCancel(m.t.Context())
	m.sink = &picky{m.topics.sink(), m.topics}
	m.p = cdc.NewPipeline(cdc.Config{
		Source: m.server, Sink: m.sink, Reopen: m.sink.reopen, Store: m.store.Open(), Route: routeOrNot, Logger: m.log,
		DrainTimeout: 100 * time.Millisecond, CheckpointInterval: m.interval,
		DeadLetters: &cdc.DeadLetters{
			Topic: dlq, Slot: "s", Log: m.topics, Decode: deadletter.Decode,
			Encode: func(l *cdc.Letter, r *cdc.Record) { deadletter.Encode(dlq, l, r) },
		},
	})
	m.cancel, m.ended = cancel, make(chan error, 1)
	p, ended := m.p, m.ended
	go func() { ended <- p.Run(ctx) }()
}

// stop ends the process, which may say that it could not drain.
func (m *mourner) stop() error {
	m.cancel()
	err := <-m.ended
	m.sink.Close()
	return err
}

// kill ends the process and saves nothing more.
func (m *mourner) kill() {
	m.store.SetFault(func(op checkpointtest.Op, _ cdc.Position) checkpointtest.Fault {
		if op == checkpointtest.Save {
			return checkpointtest.Lost
		}
		return checkpointtest.None
	})
	_ = m.stop() // it was killed
	m.store.Heal()
	m.topics.set(func() { clear(m.topics.stalled) })
}

// routeOrNot makes a record, with poison for the key "null", which is none.
func routeOrNot(ev *cdc.Event) (*cdc.Record, error) {
	r, err := route(ev)
	if err == nil && string(r.Key) == "null" {
		r.Key = nil
		return r, cdc.Poison(cdc.PoisonKey, "NULL")
	}
	return r, err
}

// settle waits until everything committed is acknowledged and every request is
// answered.
func (m *mourner) settle() {
	m.t.Helper()
	end := m.server.txs[len(m.server.txs)-1].end
	for range 10_000 {
		answered := true
		m.topics.set(func() {
			for i := range m.topics.letters {
				l, err := deadletter.Decode(&m.topics.letters[i])
				if err == nil && l.Kind == cdc.LetterRequest {
					answered = answered && slices.ContainsFunc(m.topics.letters[i:], func(r cdc.Record) bool {
						a, err := deadletter.Decode(&r)
						return err == nil && a.Kind == cdc.LetterAnswer && a.Answer.Request == l.Request.ID
					})
				}
			}
		})
		if answered && m.p.Status().Acknowledged >= end {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	m.t.Fatalf("not settled: %+v", m.p.Status())
}

// check compares what arrived with what was committed: for each key the first
// occurrences are in commit order, and what did not arrive was discarded.
func (m *mourner) check(discarded func(key, event string) bool) (duplicates int) {
	m.t.Helper()
	want := map[string][]string{}
	for _, tx := range m.server.txs {
		for n, key := range tx.keys {
			want[key] = append(want[key], tx.event(n))
		}
	}
	for key := range want {
		var first []string
		for _, ev := range m.topics.events[key] {
			if slices.Contains(first, ev) {
				duplicates++
				continue
			}
			first = append(first, ev)
		}
		left := slices.DeleteFunc(want[key], func(ev string) bool { return !slices.Contains(first, ev) && discarded(key, ev) })
		if !slices.Equal(first, left) {
			m.t.Errorf("key %s: published %v, want %v", key, first, left)
		}
	}
	return duplicates
}

func never(string, string) bool { return false }

// A bad event is dead, what comes behind it in its key is parked, and all else goes
// on; a retry publishes them in order.
func TestLettersParkAndRetry(t *testing.T) {
	for _, restart := range []string{"None", "Stop", "Kill"} {
		t.Run(restart, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMourner(t, scriptTx{keys: []string{"a", "a", "b", "a"}, end: 10}, scriptTx{keys: []string{"b", "a"}, end: 20})
				m.topics.bad["a/0/A/2"] = true
				m.start()
				m.settle()
				m.topics.write(&cdc.Letter{Kind: cdc.LetterClaim, Slot: "other slot", Owner: "x"})
				switch restart {
				case "Stop":
					if err := m.stop(); err != nil {
						t.Fatal(err)
					}
					m.start()
				case "Kill":
					time.Sleep(time.Second) // all is saved
					m.kill()
					m.start()
				}
				m.server.commit(scriptTx{keys: []string{"a", "b"}, end: 30})
				m.settle()
				if got := m.topics.events["a"]; !slices.Equal(got, []string{"a/0/A/1"}) {
					t.Errorf("published %v, want only what is before the dead letter", got)
				}
				if got := len(m.topics.events["b"]); got != 3 {
					t.Errorf("%d events of the other key were published, want 3", got)
				}
				list := m.topics.lots(t).List()
				if len(list) != 1 || list[0].Parked != 3 || list[0].Dead.Reason != cdc.PoisonOversize || m.p.Status().ParkedKeys != 1 {
					t.Fatalf("lots %+v, want one with 3 parked", list)
				}
				m.topics.set(func() { clear(m.topics.bad) })
				m.topics.request(cdc.Request{ID: "r", Action: cdc.Retry, All: true})
				m.settle()
				m.server.commit(scriptTx{keys: []string{"a"}, end: 40})
				m.settle()
				if err := m.stop(); err != nil {
					t.Error(err)
				}
				if n := m.check(never); n != 0 {
					t.Errorf("%d duplicates, want none", n)
				}
				if list := m.topics.lots(t).List(); len(list) != 0 || m.p.Status().ParkedKeys != 0 {
					t.Errorf("lots %+v, want none", list)
				}
			})
		})
	}
}

// TestLettersModel has poison come, be mended, retried and discarded at random
// moments, while processes are stopped and killed, connections break, and records in
// flight are lost, each partition from a moment of its own on.
func TestLettersModel(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runModel(t, seed) })
		})
	}
}

// model is what a run has done.
type model struct {
	*mourner
	rng                 *rand.Rand
	end                 cdc.LSN
	killed, repeats     bool
	requests            int
	dropped, droppedAll map[string]bool // keys whose dead letters, or whose parked events too, may be discarded
}

var modelKeys = []string{"a", "b", "c"}

func runModel(t *testing.T, seed uint64) {
	m := &model{rng: rand.New(rand.NewPCG(seed, 1)), dropped: map[string]bool{}, droppedAll: map[string]bool{}}
	m.mourner = newMourner(t, scriptTx{keys: []string{"a"}, end: 1000})
	m.end = 1000
	m.topics.slow = time.Duration(m.rng.IntN(3)) * time.Millisecond
	m.interval = []time.Duration{10 * time.Millisecond, 400 * time.Millisecond}[m.rng.IntN(2)]
	m.start()
	for range 60 {
		m.step()
		m.bury()
		time.Sleep(time.Duration(m.rng.IntN(30)) * time.Millisecond)
	}
	m.topics.set(func() { clear(m.topics.bad); clear(m.topics.refused) })
	if m.killed {
		m.kill() // what was lost in a stalled partition is not waited for
		m.start()
	}
	m.settle()
	m.topics.request(cdc.Request{ID: "last", Action: cdc.Retry, All: true})
	m.settle()
	if err := m.stop(); err != nil {
		t.Errorf("Run() = %v", err)
	}
	duplicates := m.check(func(key, event string) bool {
		return key == "null" || m.droppedAll[key] || m.dropped[key] && m.topics.wasBad[event]
	})
	if !m.killed && !m.repeats && duplicates > 0 {
		t.Errorf("%d duplicates though nothing was killed or refused", duplicates)
	}
	for _, lot := range m.topics.lots(t).List() {
		if lot.Key != nil {
			t.Errorf("still dead: %+v", lot)
		}
	}
	m.checkKeyless()
}

// checkKeyless wants each event without a key to be a dead letter.
func (m *model) checkKeyless() {
	for _, tx := range m.server.txs {
		for n, key := range tx.keys {
			if key == "null" && !slices.ContainsFunc(m.topics.letters, func(r cdc.Record) bool { return string(r.Value) == tx.event(n) }) {
				m.t.Errorf("lost: %s", tx.event(n))
			}
		}
	}
}

// bury starts the process again if it has ended by itself, as it does when it cannot
// drain what is stalled.
func (m *model) bury() {
	select {
	case err := <-m.ended:
		if !m.killed {
			m.t.Errorf("Run() = %v", err)
		}
		m.ended <- err
		m.kill()
		m.start()
	default:
	}
}

func (m *model) step() {
	switch n := m.rng.IntN(20); {
	case n < 8:
		m.write()
	case n < 10: // mended
		m.topics.set(func() {
			for _, ev := range slices.Sorted(maps.Keys(m.topics.wasBad)) {
				if m.rng.IntN(2) == 0 {
					delete(m.topics.bad, ev)
					delete(m.topics.refused, ev)
				}
			}
		})
	case n < 15:
		m.ask()
	case n < 16:
		m.topics.set(func() { m.topics.stalled[m.rng.IntN(topicPartitions+1)-1] = true })
		m.killed = true // it takes a kill to go on
	case n < 18:
		if m.rng.IntN(2) == 0 {
			time.Sleep(time.Duration(m.rng.IntN(100)) * time.Millisecond)
		}
		if m.killed = m.killed || m.rng.IntN(3) > 0; m.killed {
			m.kill()
		} else if err := m.stop(); err != nil {
			m.t.Errorf("Run() = %v", err)
		}
		m.start()
	default:
		m.breakSomewhere()
	}
}

// write commits a transaction, some events of which are bad.
func (m *model) write() {
	m.end += cdc.LSN(1 + m.rng.IntN(100))
	tx := scriptTx{end: m.end}
	for range 1 + m.rng.IntN(4) {
		key := modelKeys[m.rng.IntN(len(modelKeys))]
		if m.rng.IntN(12) == 0 {
			key = "null"
		}
		tx.keys = append(tx.keys, key)
	}
	m.topics.set(func() {
		for n := range tx.keys {
			switch ev := tx.event(n); m.rng.IntN(12) {
			case 0, 1:
				m.topics.bad[ev], m.topics.wasBad[ev] = true, true
			case 2:
				m.topics.refused[ev], m.topics.wasBad[ev] = true, true
				m.repeats = true // it resumes from the checkpoint
			}
		}
	})
	m.server.commit(tx)
}

func (m *model) ask() {
	m.requests++
	q := cdc.Request{ID: fmt.Sprint("r", m.requests), Action: cdc.Retry}
	key := modelKeys[m.rng.IntN(len(modelKeys))]
	q.Key = []byte(key)
	switch m.rng.IntN(6) {
	case 0:
		q.Action, m.dropped[key] = cdc.Discard, true
	case 1:
		q.Action, q.WithParked, m.droppedAll[key] = cdc.Discard, true, true
	case 2:
		q.Key, q.All = nil, true
	}
	m.topics.request(q)
}

// breakSomewhere cuts the connection before an event that is yet to come.
func (m *model) breakSomewhere() {
	next := fmt.Sprintf("%s/%s/1", modelKeys[m.rng.IntN(len(modelKeys))], m.end+1)
	m.server.mu.Lock()
	m.server.breaks[next] = true
	m.server.mu.Unlock()
	m.end++
	key, _, _ := strings.Cut(next, "/")
	m.server.commit(scriptTx{keys: []string{key}, end: m.end})
}

// What an instance writes after another one has claimed the log is void, and it starts
// from the checkpoint when it sees the claim.
func TestLettersClaimedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMourner(t, scriptTx{keys: []string{"a", "a"}, end: 10})
		m.topics.bad["a/0/A/1"] = true
		m.start()
		m.settle()
		before := len(m.topics.letters)
		m.topics.write(&cdc.Letter{Kind: cdc.LetterClaim, Slot: "other slot", Owner: "x"})
		time.Sleep(time.Minute)
		if m.server.opens != 1 {
			t.Error("the claim of another slot is taken for one of this")
		}
		m.topics.write(&cdc.Letter{Kind: cdc.LetterClaim, Slot: "s", Owner: "another"})
		m.topics.write(&cdc.Letter{Kind: cdc.LetterDead, Slot: "s", Owner: "of old", Event: &cdc.Record{Topic: "t", Key: []byte("void"), Partition: -1}})
		m.topics.write(&cdc.Letter{Kind: cdc.LetterDead, Slot: "other slot", Owner: "x", Event: &cdc.Record{Topic: "t", Key: []byte("void"), Partition: -1}})
		time.Sleep(time.Minute)
		if list := m.topics.lots(t).List(); len(list) != 1 || string(list[0].Key) != "a" {
			t.Errorf("lots %+v, want one for key a", list)
		}
		claims := 0
		for _, r := range m.topics.letters[before:] {
			if l, err := deadletter.Decode(&r); err == nil && l.Kind == cdc.LetterClaim {
				claims++
			}
		}
		if claims != 3 || m.server.opens < 2 {
			t.Errorf("%d claims and %d streams, want those of others, and ours again", claims, m.server.opens)
		}
		m.server.commit(scriptTx{keys: []string{"a", "b"}, end: 20})
		m.settle()
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if got := m.topics.events["a"]; got != nil {
			t.Errorf("published %v of a parked key", got)
		}
	})
}

// Each external write that dead letters add is lost, or kept and not answered: after a
// restart nothing is lost or out of order, whatever was asked for.
func TestLettersFaults(t *testing.T) {
	kinds := []cdc.LetterKind{cdc.LetterClaim, cdc.LetterDead, cdc.LetterParked, cdc.LetterSettled, cdc.LetterAnswer}
	for _, kind := range kinds {
		for _, kept := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s kept %t", kind, kept), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMourner(t, scriptTx{keys: []string{"a", "a", "b", "a"}, end: 10}, scriptTx{keys: []string{"a", "b"}, end: 20})
					m.topics.bad["a/0/A/2"] = true
					m.topics.fault, m.topics.faultKept = kind, kept
					m.start()
					time.Sleep(time.Second)
					m.topics.set(func() { clear(m.topics.bad) })
					m.topics.request(cdc.Request{ID: "r", Action: cdc.Retry, All: true})
					time.Sleep(time.Second)
					m.kill()
					m.topics.fault = ""
					m.start()
					m.settle()
					if err := m.stop(); err != nil {
						t.Error(err)
					}
					m.check(never)
					if list := m.topics.lots(t).List(); len(list) != 0 {
						t.Errorf("lots %+v, want none", list)
					}
				})
			})
		}
	}
}

// A request that an operator narrows down concerns no other lot.
func TestLettersRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMourner(t, scriptTx{keys: []string{"a", "a", "b", "b", "null", "c"}, end: 10})
		for _, ev := range []string{"a/0/A/1", "b/0/A/3", "c/0/A/6"} {
			m.topics.bad[ev] = true
		}
		m.start()
		m.settle()
		m.topics.set(func() { delete(m.topics.bad, "a/0/A/1") })
		ask := func(q cdc.Request) *cdc.Answer {
			q.ID = fmt.Sprint(len(m.topics.letters))
			m.topics.request(q)
			m.settle()
			return m.topics.answer(q.ID)
		}
		tests := []struct {
			q    cdc.Request
			want cdc.Answer
		}{
			{cdc.Request{Action: cdc.Retry, Letter: "nobody"}, cdc.Answer{}},
			{cdc.Request{Action: cdc.Retry, Key: []byte("a"), Topic: "another"}, cdc.Answer{}},
			{cdc.Request{Action: cdc.Retry, Letter: "a/0/A/1"}, cdc.Answer{Lots: 1, Published: 2, Freed: 1}},
			{cdc.Request{Action: cdc.Retry, Letter: "a/0/A/1"}, cdc.Answer{}},
			{cdc.Request{Action: cdc.Retry, Key: []byte("b"), To: dlq}, cdc.Answer{Lots: 1, Failed: 1}},
			{cdc.Request{Action: cdc.Discard, Key: []byte("b")}, cdc.Answer{Lots: 1, Discarded: 1, Published: 1, Freed: 1}},
			{cdc.Request{Action: cdc.Retry, All: true}, cdc.Answer{Lots: 2, Failed: 2}},
			{cdc.Request{Action: cdc.Discard, Letter: "0/9-5"}, cdc.Answer{Lots: 1, Discarded: 1, Freed: 1}},
			{cdc.Request{Action: cdc.Discard, All: true, WithParked: true}, cdc.Answer{Lots: 1, Discarded: 1, Freed: 1}},
		}
		for i, tt := range tests {
			got := *ask(tt.q)
			got.Request, got.StillDead = "", nil
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("request %d: %+v, want %+v", i, got, tt.want)
			}
		}
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	})
}

// A retry that is under way when the connection breaks goes on where it was: a
// reconnect repeats nothing.
func TestLettersRetryReconnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := slices.Repeat([]string{"a"}, 300)
		m := newMourner(t, scriptTx{keys: keys, end: 10})
		m.topics.bad["a/0/A/1"], m.topics.slow = true, time.Millisecond
		m.start()
		m.settle()
		m.topics.set(func() { clear(m.topics.bad) })
		m.topics.request(cdc.Request{ID: "r", Action: cdc.Retry, All: true})
		time.Sleep(100 * time.Millisecond)
		m.server.breaks["b/0/14/1"] = true
		m.server.commit(scriptTx{keys: []string{"b"}, end: 20})
		m.settle()
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if m.server.opens != 2 {
			t.Errorf("%d streams, want 2", m.server.opens)
		}
		if n := m.check(never); n != 0 {
			t.Errorf("%d duplicates, want none", n)
		}
	})
}
