package cdc_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/deadletter"
)

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
				if n := m.compare(never); n != 0 {
					t.Errorf("%d duplicates, want none", n)
				}
				if list := m.topics.lots(t).List(); len(list) != 0 || m.p.Status().ParkedKeys != 0 {
					t.Errorf("lots %+v, want none", list)
				}
			})
		})
	}
}

// A dead-letter topic that is deleted and created again, while events stream or in between, takes with
// it what was dead and parked. The stream goes on, and the key is free.
func TestLettersOfAnotherLog(t *testing.T) {
	for name, broken := range map[string]bool{"Streaming": false, "Broken": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMourner(t, scriptTx{keys: []string{"a", "a"}, end: 10})
				m.topics.bad["a/0/A/1"] = true
				m.start()
				m.settle()
				if broken {
					m.server.mu.Lock()
					m.server.breaks["a/0/14/1"] = true
					m.server.onReopen = func() {
						m.server.onReopen = nil
						m.topics.createAgain()
					}
					m.server.mu.Unlock()
				} else {
					m.topics.createAgain()
					time.Sleep(time.Minute)
				}
				m.server.commit(scriptTx{keys: []string{"a", "b"}, end: 20})
				m.settle()
				if err := m.stop(); err != nil {
					t.Error(err)
				}
				if got := m.topics.published("a"); !slices.Equal(got, []string{"a/0/14/1"}) {
					t.Errorf("published %v, want what came after", got)
				}
				if list := m.topics.lots(t).List(); len(list) != 0 || m.p.Status().ParkedKeys != 0 {
					t.Errorf("lots %+v, want none", list)
				}
			})
		})
	}
}

// createAgain deletes the dead-letter topic and creates it.
func (c *topics) createAgain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.letters, c.first, c.another = nil, 0, true
	close(c.grew)
	c.grew = make(chan struct{})
}

func (c *topics) isAnother() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	another := c.another
	c.another = false
	return another
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
					m.compare(never)
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
		if n := m.compare(never); n != 0 {
			t.Errorf("%d duplicates, want none", n)
		}
	})
}

// A row is refused while no stream is open, before the claim of the next one or behind
// it: the sink is opened again, and the row becomes a dead letter.
func TestLettersRefusedWhileBroken(t *testing.T) {
	for _, slow := range []time.Duration{30 * time.Millisecond, 200 * time.Millisecond} {
		t.Run(slow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMourner(t, scriptTx{keys: []string{"a", "b", "c"}, end: 10})
				m.topics.refused["a/0/A/1"], m.topics.slow = true, slow
				m.server.breaks["b/0/A/2"] = true
				m.start()
				m.settle()
				if err := m.stop(); err != nil {
					t.Error(err)
				}
				if m.server.opens > 5 {
					t.Errorf("%d streams, want a few", m.server.opens)
				}
				if list := m.topics.lots(t).List(); len(list) != 1 || string(list[0].Key) != "a" {
					t.Errorf("lots %+v, want one for key a", list)
				}
				m.compare(func(key, _ string) bool { return key == "a" })
			})
		})
	}
}

// A claim that the broker refuses ends the pipeline, with what to do about it.
func TestLettersClaimRefused(t *testing.T) {
	bothGuarantees(t, []scriptTx{{keys: []string{"a"}, end: 10}}, func(t *testing.T, m *mourner) {
		m.topics.refusedKind = cdc.LetterClaim
		m.start()
		time.Sleep(time.Minute)
		var refused *cdc.RefusedError
		if err := m.stop(); !errors.As(err, &refused) || refused.Hint == "" {
			t.Errorf("Run() = %v, want it refused, with a hint", err)
		}
	})
}
