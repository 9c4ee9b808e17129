package cdc_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
	"github.com/walpost/walpost/pkg/deadletter"
)

// exactlyOnce makes m deliver to a cluster with transactions. What is committed there is
// in the topics.
func (m *mourner) exactlyOnce() {
	m.cluster = newCluster()
	m.cluster.refuses = func(r *cdc.Record) bool {
		if r.Topic == dlq {
			return m.topics.refusedKind != "" && kindOf(r) == m.topics.refusedKind
		}
		return m.topics.isRefused(string(r.Value))
	}
	m.cluster.onCommit = m.topics.commit
	m.server.store = m.cluster
	m.dying = checkpointtest.Silent
}

func (m *mourner) deliverExactlyOnce(cfg *cdc.Config) {
	client := m.cluster.open()
	cfg.Sink, cfg.Store, cfg.Transactional = &pickyClient{client, m.topics}, client, true
	m.close = func() { client.answer(errors.New("closed")) }
}

// pickyClient is a client whose topic refuses bad events.
type pickyClient struct {
	*client
	topics *topics
}

func (p *pickyClient) Produce(ctx context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	if r.Topic != dlq && p.topics.isBad(string(r.Value)) {
		return cdc.Poison(cdc.PoisonOversize, "too large for the topic")
	}
	return p.client.Produce(ctx, r, done)
}

func (c *topics) isRefused(event string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused[event]
}

// published returns the events of a key.
func (c *topics) published(key string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events[key])
}

// written returns how many letters there ever were.
func (c *topics) written() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.letters)
}

// trimmed returns the offset of the first letter that is left.
func (c *topics) trimmed() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first
}

// kept returns how many letters are left.
func (c *topics) kept() int { return c.written() - int(c.trimmed()) }

// commit keeps the records of a transaction.
func (c *topics) commit(records []cdc.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range records {
		if r := &records[i]; r.Topic == dlq {
			c.add(r)
		} else {
			c.events[string(r.Key)] = append(c.events[string(r.Key)], string(r.Value))
		}
	}
}

// checkExact wants no event to be in the log of letters twice.
func (m *mourner) checkExact() {
	m.t.Helper()
	seen := map[string]bool{}
	for i := range m.topics.letters {
		l, err := deadletter.Decode(&m.topics.letters[i])
		if err != nil || l.Event == nil {
			continue
		}
		if ev := string(l.Event.Value); seen[ev] {
			m.t.Errorf("%s is in the log twice", ev)
		} else {
			seen[ev] = true
		}
	}
}

// failOnce makes some call that is yet to come fail in some way. A process that
// is killed from then on may have done its last.
func (m *model) failOnce() {
	faults := []checkpointtest.Fault{checkpointtest.Lost, checkpointtest.Persisted, checkpointtest.Silent, checkpointtest.PersistedSilent}
	fault, at := faults[m.rng.IntN(len(faults))], 1+m.rng.IntN(10)
	m.dying = faults[2+m.rng.IntN(2)]
	m.killed = true // a stop could not drain
	m.cluster.setFault(func(call int, _ op) checkpointtest.Fault {
		if call == at {
			return fault
		}
		return checkpointtest.None
	})
}

// letterScript has an event that is refused at once, one that is after it was taken, and
// events behind both.
func letterScript(t *testing.T) *mourner {
	m := newMourner(t, scriptTx{keys: []string{"a", "a", "b", "a"}, end: 10}, scriptTx{keys: []string{"a", "b", "c", "c"}, end: 20})
	m.exactlyOnce()
	m.topics.bad["a/0/A/2"], m.topics.refused["c/0/14/3"] = true, true
	return m
}

// retryAll has everything mended and asks for a retry.
func (m *mourner) retryAll() {
	m.topics.set(func() { clear(m.topics.bad); clear(m.topics.refused) })
	m.topics.request(cdc.Request{ID: fmt.Sprint("all", m.topics.written()), Action: cdc.Retry, All: true})
}

// checkAll wants all events to be published once, and nothing to be dead.
func (m *mourner) checkAll() {
	m.t.Helper()
	if n := m.compare(never); n != 0 {
		m.t.Errorf("%d duplicates, want none", n)
	}
	m.checkExact()
	if list := m.topics.lots(m.t).List(); len(list) != 0 {
		m.t.Errorf("lots %+v, want none", list)
	}
}

// Each external call, while events are found to be dead, are parked and are retried, is
// lost, done but reported failed, or never answered. The living process goes on, and
// each event is published once.
func TestLettersExactlyOnceFaults(t *testing.T) {
	faults := maps.Clone(allFaults)
	faults["NotTaken"] = checkpointtest.Lost
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			calls := 0
			for at := 1; at == 1 || at <= calls; at++ {
				synctest.Test(t, func(t *testing.T) {
					m := letterScript(t)
					m.cluster.refusing = name == "NotTaken"
					var hit op
					m.cluster.setFault(func(call int, o op) checkpointtest.Fault {
						calls = max(calls, call)
						if call != at {
							return checkpointtest.None
						}
						hit = o
						return fault
					})
					m.start()
					time.Sleep(10 * time.Minute)
					m.retryAll()
					time.Sleep(10 * time.Minute)
					m.settle()
					if err := m.stop(); err != nil {
						t.Errorf("Run() = %v", err)
					}
					m.checkAll()
					if t.Failed() {
						t.Fatalf("at call %d, %s", at, hit)
					}
				})
				calls = min(calls, 60) // what follows the fault's own recovery is not new
			}
			if calls < 30 {
				t.Errorf("%d calls: the test has shown little", calls)
			}
		})
	}
}

// The process dies in each moment. The next one goes on, and each event is published
// once.
func TestLettersExactlyOnceCrashes(t *testing.T) {
	for name, last := range map[string]checkpointtest.Fault{"Before": checkpointtest.Silent, "After": checkpointtest.PersistedSilent} {
		t.Run(name, func(t *testing.T) {
			for at := 1; at <= 60; at++ {
				synctest.Test(t, func(t *testing.T) {
					m := letterScript(t)
					m.cluster.setFault(func(call int, _ op) checkpointtest.Fault {
						switch {
						case call < at:
							return checkpointtest.None
						case call == at:
							return last
						}
						return checkpointtest.Silent
					})
					m.start()
					time.Sleep(time.Second)
					m.retryAll()
					time.Sleep(time.Second)
					m.kill()
					m.start()
					m.settle()
					m.retryAll()
					m.settle()
					if err := m.stop(); err != nil {
						t.Errorf("Run() after a crash at call %d = %v", at, err)
					}
					m.checkAll()
					if t.Failed() {
						t.Fatalf("at call %d", at)
					}
				})
			}
		})
	}
}

// A retry of many events is published in several transactions, and is cut in the midst of
// them, by a crash or a discard's too: nothing is repeated.
func TestLettersExactlyOnceRetryCut(t *testing.T) {
	for _, action := range []cdc.Action{cdc.Retry, cdc.Discard} {
		for cut := 70 * time.Millisecond; cut < 150*time.Millisecond; cut += 7 * time.Millisecond {
			synctest.Test(t, func(t *testing.T) {
				keys := make([]string, 300)
				for i := range keys {
					keys[i] = "a"
				}
				m := newMourner(t, scriptTx{keys: keys, end: 10})
				m.exactlyOnce()
				m.cluster.delay = time.Millisecond
				m.topics.bad["a/0/A/1"], m.topics.logPace = true, time.Millisecond
				m.start()
				m.settle()
				m.topics.set(func() { clear(m.topics.bad) })
				m.topics.request(cdc.Request{ID: "r", Action: action, All: true})
				time.Sleep(cut)
				m.kill()
				part := len(m.topics.published("a"))
				m.start()
				m.server.commit(scriptTx{keys: []string{"a"}, end: 20})
				m.settle()
				if err := m.stop(); err != nil {
					t.Error(err)
				}
				discarded := func(_, ev string) bool { return action == cdc.Discard && ev == "a/0/A/1" }
				if n := m.compare(discarded); n != 0 {
					t.Errorf("%s cut after %d events: %d duplicates, want none", action, part, n)
				}
				if a := m.topics.answer("r"); a == nil || a.Freed != 1 || a.Published+a.Discarded < 300 {
					t.Errorf("answer %+v, want 300 events or more", a)
				}
				t.Logf("%s cut after %d of 300", action, part)
			})
		}
	}
}

// A retry is cut off in the midst, and again before it has come as far, while other
// events are committed: what the first had published is not forgotten.
func TestLettersExactlyOnceRetryCutTwice(t *testing.T) {
	for cut := 130 * time.Millisecond; cut < 180*time.Millisecond; cut += 7 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			m := newMourner(t, scriptTx{keys: slices.Repeat([]string{"a"}, 300), end: 10})
			m.exactlyOnce()
			m.cluster.delay = time.Millisecond
			m.topics.bad["a/0/A/1"], m.topics.logPace = true, time.Millisecond
			m.start()
			m.settle()
			m.topics.set(func() { clear(m.topics.bad) })
			m.topics.request(cdc.Request{ID: "r", Action: cdc.Retry, All: true})
			time.Sleep(cut)
			m.kill()
			m.start()
			end := cdc.LSN(10)
			for range 30 { // the log is read twice before it goes on
				time.Sleep(5 * time.Millisecond)
				end += 10
				m.server.commit(scriptTx{keys: []string{"b"}, end: end})
			}
			m.kill()
			m.start()
			m.settle()
			if err := m.stop(); err != nil {
				t.Error(err)
			}
			if n := m.compare(never); n != 0 {
				t.Errorf("cut after %s: %d duplicates, want none", cut, n)
			}
		})
	}
}
