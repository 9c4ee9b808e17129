package cdc_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// TestLettersModel has poison come, be mended, retried and discarded at random
// moments, while processes are stopped and killed, connections break, and records in
// flight are lost, each partition from a moment of its own on.
func TestLettersModel(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runModel(t, seed, false) })
		})
		t.Run(fmt.Sprint("ExactlyOnce", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runModel(t, seed, true) })
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

func runModel(t *testing.T, seed uint64, exact bool) {
	m := &model{rng: rand.New(rand.NewPCG(seed, 1)), dropped: map[string]bool{}, droppedAll: map[string]bool{}}
	m.mourner = newMourner(t, scriptTx{keys: []string{"a"}, end: 1000})
	if exact {
		m.exactlyOnce()
		m.cluster.delay = time.Duration(m.rng.IntN(5)) * time.Millisecond
	}
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
	duplicates := m.compare(func(key, event string) bool {
		return key == "null" || m.droppedAll[key] || m.dropped[key] && m.topics.wasBad[event]
	})
	if exact {
		m.checkExact()
	}
	if (exact || !m.killed && !m.repeats) && duplicates > 0 {
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
	case n < 16 && m.cluster != nil:
		m.failOnce()
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
