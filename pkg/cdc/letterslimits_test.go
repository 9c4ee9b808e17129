package cdc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
)

// bothGuarantees runs fn with a mourner that delivers at least once, and with one that
// does so exactly once.
func bothGuarantees(t *testing.T, txs []scriptTx, fn func(t *testing.T, m *mourner)) {
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprintf("ExactlyOnce=%t", exact), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMourner(t, txs...)
				if exact {
					m.exactlyOnce()
				}
				fn(t, m)
			})
		})
	}
}

// At the limit of events that are parked nothing more is taken that would have
// to join them, the status says so, and a stop is clean. Once there is room the stream goes
// on, and nothing is lost or out of order.
func TestLettersHeld(t *testing.T) {
	for _, restarts := range []int{0, 2} {
		t.Run(fmt.Sprint(restarts, " restarts"), func(t *testing.T) { testHeld(t, restarts) })
	}
}

func testHeld(t *testing.T, restarts int) {
	txs := []scriptTx{{keys: []string{"a", "a", "b", "c", "b", "d"}, end: 10}}
	bothGuarantees(t, txs, func(t *testing.T, m *mourner) {
		m.parked = 1
		for _, ev := range []string{"a/0/A/1", "b/0/A/3"} {
			m.topics.bad[ev] = true // with a/2 behind the first
		}
		for n := range restarts + 1 {
			m.start()
			time.Sleep(time.Minute)
			if got := m.topics.published("c"); !slices.Equal(got, []string{"c/0/A/4"}) || m.topics.published("d") != nil {
				t.Errorf("published %v and %v, want what is before the row that finds no room", got, m.topics.published("d"))
			}
			if st := m.p.Status(); !st.Held || st.State != cdc.Streaming || st.Acknowledged >= 10 {
				t.Errorf("status %+v, want it to be held", st)
			}
			if list := m.topics.lots(t).List(); len(list) != 2 {
				t.Errorf("%d lots, want 2", len(list))
			}
			if n == restarts {
				break
			}
			if err := m.stop(); err != nil {
				t.Errorf("Run() = %v", err)
			}
		}
		m.topics.set(func() { delete(m.topics.bad, "b/0/A/3") })
		m.topics.request(cdc.Request{ID: "r", Action: cdc.Discard, Key: []byte("a"), WithParked: true})
		m.settle()
		m.topics.request(cdc.Request{ID: "s", Action: cdc.Retry, All: true})
		m.settle()
		if st := m.p.Status(); st.Held {
			t.Errorf("status %+v, want it not to be held", st)
		}
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if n := m.compare(func(key, _ string) bool { return key == "a" }); n != 0 {
			t.Errorf("%d duplicates, want none", n)
		}
	})
}

// What is parked does not count as dead: only another dead letter finds no room.
func TestLettersHeldByDead(t *testing.T) {
	keys := slices.Concat(slices.Repeat([]string{"a"}, 50), []string{"null", "c"})
	bothGuarantees(t, []scriptTx{{keys: keys, end: 10}}, func(t *testing.T, m *mourner) {
		m.limit, m.topics.bad["a/0/A/1"], m.topics.bad["b/0/14/1"] = 2, true, true
		for range 2 {
			m.start()
			m.settle()
			if st := m.p.Status(); st.Held || st.OpenDead != 2 || st.ParkedKeys != 1 || st.Parked != 49 {
				t.Errorf("status %+v, want 2 dead letters, 49 parked events of 1 key, and it not to be held", st)
			}
			if err := m.stop(); err != nil {
				t.Error(err)
			}
		}
		m.start()
		m.server.commit(scriptTx{keys: []string{"b", "c"}, end: 20})
		time.Sleep(time.Minute)
		if st := m.p.Status(); !st.Held || st.OpenDead != 2 {
			t.Errorf("status %+v, want it to be held", st)
		}
		m.topics.request(cdc.Request{ID: "r", Action: cdc.Discard, All: true, WithParked: true})
		m.settle()
		if st := m.p.Status(); st.Held || st.OpenDead != 1 || st.Parked != 0 {
			t.Errorf("status %+v, want 1 dead letter, and it not to be held", st)
		}
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	})
}

// A claim of another instance while no stream is open is seen when one opens again, also
// where no epoch tells, as with the slot store: what is parked is read anew.
func TestLettersClaimedWhileBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMourner(t, scriptTx{keys: []string{"b"}, end: 10})
		m.start()
		m.settle()
		m.server.mu.Lock()
		m.server.breaks["a/0/14/1"] = true
		m.server.onReopen = func() {
			m.server.onReopen = nil
			m.topics.write(&cdc.Letter{Kind: cdc.LetterClaim, Slot: "s", Owner: "another"})
			m.topics.write(&cdc.Letter{Kind: cdc.LetterDead, Slot: "s", Owner: "another", Event: &cdc.Record{Topic: "t", Key: []byte("a"), Partition: -1}})
		}
		m.server.mu.Unlock()
		m.server.commit(scriptTx{keys: []string{"a", "b"}, end: 20})
		m.settle()
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if got := m.topics.published("a"); got != nil {
			t.Errorf("published %v behind the dead letter of another instance", got)
		}
		if list := m.topics.lots(t).List(); len(list) != 1 || list[0].Parked != 1 {
			t.Errorf("lots %+v, want one with 1 parked", list)
		}
	})
}

// An answer is not trimmed while somebody may still look for it.
func TestLettersAnswerStays(t *testing.T) {
	bothGuarantees(t, []scriptTx{{keys: []string{"a"}, end: 10}}, func(t *testing.T, m *mourner) {
		m.start()
		m.settle()
		m.retryAll()
		m.settle()
		answered := int64(m.topics.written() - 1)
		for range 3 {
			m.retryAll()
			m.settle()
		}
		if first := m.topics.trimmed(); first > answered {
			t.Errorf("trimmed up to %d, and the first answer at %d is gone", first, answered)
		}
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	})
}

// The connection breaks after a request was answered and before that is read: the next
// request knows what became of it.
func TestLettersBreaksBehindAnswer(t *testing.T) {
	bothGuarantees(t, []scriptTx{{keys: []string{"a", "a"}, end: 10}}, func(t *testing.T, m *mourner) {
		m.topics.bad["a/0/A/1"] = true
		m.start()
		m.settle()
		m.topics.set(func() { clear(m.topics.bad); m.topics.logPace = 100 * time.Millisecond })
		m.topics.request(cdc.Request{ID: "r", Action: cdc.Retry, All: true})
		m.topics.request(cdc.Request{ID: "s", Action: cdc.Retry, All: true})
		for m.topics.answer("r") == nil {
			time.Sleep(time.Millisecond)
		}
		m.server.mu.Lock()
		m.server.breaks["b/0/14/1"] = true
		m.server.mu.Unlock()
		m.server.commit(scriptTx{keys: []string{"b"}, end: 20})
		m.settle()
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if n := m.compare(never); n != 0 || m.topics.answer("s").Lots != 0 {
			t.Errorf("%d duplicates, and the second request found %d dead letters, want none", n, m.topics.answer("s").Lots)
		}
	})
}

// What a start reads is bounded by what is dead, parked or asked for, and by what was
// answered just now, whatever the log has seen; and what is open is still known.
func TestLettersTrimmed(t *testing.T) {
	bothGuarantees(t, []scriptTx{{keys: []string{"a"}, end: 10}}, func(t *testing.T, m *mourner) {
		m.start()
		end := cdc.LSN(10)
		for n := range 50 {
			end += 10
			tx := scriptTx{keys: []string{"a", "a", "a", "null"}, end: end}
			m.topics.set(func() { m.topics.bad[tx.event(0)] = true })
			m.server.commit(tx)
			m.settle()
			m.topics.set(func() { clear(m.topics.bad) })
			m.topics.request(cdc.Request{ID: fmt.Sprint("r", n), Action: cdc.Retry, Key: []byte("a")})
			m.topics.request(cdc.Request{ID: fmt.Sprint("d", n), Action: cdc.Discard, All: true})
			m.settle()
			time.Sleep(time.Hour)
		}
		if kept := m.topics.kept(); kept > 30 {
			t.Errorf("%d of %d letters are kept while one instance runs, want at most 30", kept, m.topics.written())
		}
		tx := scriptTx{keys: []string{"b", "b"}, end: end + 10}
		m.topics.set(func() { m.topics.bad[tx.event(0)] = true })
		m.server.commit(tx)
		m.settle()
		for range 3 {
			if err := m.stop(); err != nil {
				t.Error(err)
			}
			m.start()
			time.Sleep(time.Hour)
		}
		if kept := m.topics.kept(); kept > 7 {
			t.Errorf("%d of %d letters are kept, want what is open and the claims behind it", kept, m.topics.written())
		}
		if list := m.topics.lots(t).List(); len(list) != 1 || list[0].Parked != 1 {
			t.Errorf("lots %+v, want one with 1 parked", list)
		}
		m.retryAll()
		m.settle()
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if n := m.compare(func(key, _ string) bool { return key == "null" }); n != 0 {
			t.Errorf("%d duplicates, want none", n)
		}
	})
}

// A log that others write to is not trimmed.
func TestLettersSharedLog(t *testing.T) {
	bothGuarantees(t, []scriptTx{{keys: []string{"a"}, end: 10}}, func(t *testing.T, m *mourner) {
		m.topics.write(&cdc.Letter{Kind: cdc.LetterClaim, Slot: "other slot", Owner: "x"})
		m.topics.write(&cdc.Letter{Kind: cdc.LetterDead, Slot: "other slot", Owner: "x", Event: &cdc.Record{Topic: "t", Key: []byte("a"), Partition: -1}})
		var out bytes.Buffer
		m.log = slog.New(slog.NewTextHandler(&out, nil))
		for range 2 {
			m.start()
			m.settle()
			m.retryAll()
			m.settle()
			if err := m.stop(); err != nil {
				t.Error(err)
			}
		}
		if m.topics.first != 0 {
			t.Errorf("trimmed up to %d, want nothing", m.topics.first)
		}
		if n := strings.Count(out.String(), "is not trimmed"); n != 2 {
			t.Errorf("said %d times that it is not trimmed, want once a start", n)
		}
	})
}

// Who may not trim the log goes on without, and does not try again and again.
func TestLettersMayNotTrim(t *testing.T) {
	bothGuarantees(t, []scriptTx{{keys: []string{"a", "a"}, end: 10}}, func(t *testing.T, m *mourner) {
		m.topics.mayNotTrim, m.topics.bad["a/0/A/1"] = true, true
		m.start()
		m.settle()
		m.retryAll()
		m.settle()
		if err := m.stop(); err != nil {
			t.Error(err)
		}
		if m.compare(never); m.topics.trims != 1 {
			t.Errorf("tried %d times, want once", m.topics.trims)
		}
	})
}

// Letters that were void stay void in a log that begins in the midst of them.
func TestLotsOfTrimmedLog(t *testing.T) {
	claim := func(owner string) *cdc.Letter { return &cdc.Letter{Kind: cdc.LetterClaim, Slot: "s", Owner: owner} }
	dead := func(owner, key string) *cdc.Letter {
		return &cdc.Letter{Kind: cdc.LetterDead, Slot: "s", Owner: owner, Event: &cdc.Record{Topic: "t", Key: []byte(key)}}
	}
	lots := cdc.NewLots("s")
	for i, l := range []*cdc.Letter{dead("new", "a"), dead("old", "b"), dead("new", "c"), claim("newer"), dead("new", "d"), dead("newer", "e")} {
		l.Offset = int64(i)
		lots.Apply(l)
	}
	var keys []string
	for _, lot := range lots.List() {
		keys = append(keys, string(lot.Key))
	}
	if !slices.Equal(keys, []string{"a", "c", "e"}) {
		t.Errorf("keys %v, want a, c and e", keys)
	}
}

// A start that a check refuses ends with its reason, and hands nothing over; one that can
// not be made is tried again.
func TestCheck(t *testing.T) {
	bothGuarantees(t, []scriptTx{{keys: []string{"a"}, end: 10}}, func(t *testing.T, m *mourner) {
		calls := 0
		m.check = func(context.Context) error {
			calls++
			if calls == 1 {
				return errors.New("no answer")
			}
			return cdc.Refuse("a hint", "refused")
		}
		m.start()
		time.Sleep(time.Minute)
		var refused *cdc.RefusedError
		if err := m.stop(); !errors.As(err, &refused) || calls != 2 {
			t.Errorf("Run() = %v after %d calls, want it refused at the second", err, calls)
		}
		if len(m.topics.events) != 0 {
			t.Errorf("published %v", m.topics.events)
		}
	})
}

// A start while Kafka is away waits, says what for, and goes on once it is back.
func TestLettersKafkaAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMourner(t, scriptTx{keys: []string{"a"}, end: 10})
		m.topics.away = make(chan struct{})
		m.start()
		time.Sleep(time.Hour)
		if st := m.p.Status(); st.State != cdc.Connecting || st.Err == nil || m.server.opens != 1 {
			t.Errorf("status %+v after %d streams, want one that is connecting, and why", st, m.server.opens)
		}
		close(m.topics.away)
		time.Sleep(time.Second)
		if st := m.p.Status(); st.State != cdc.Streaming || st.Err != nil {
			t.Errorf("status %+v, want it streaming", st)
		}
		m.settle()
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	})
}

// A hold that ends with its stream, since the position cannot be saved, is over: the row
// finds room when it comes again.
func TestLettersHoldEndsUnsaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMourner(t, scriptTx{keys: []string{"a"}, end: 10})
		m.limit = 1
		m.topics.bad["a/0/A/1"], m.topics.bad["c/0/14/2"] = true, true
		m.start()
		m.settle()
		time.Sleep(time.Second) // all is saved
		m.store.SetFault(func(op checkpointtest.Op, _ cdc.Position) checkpointtest.Fault {
			if op != checkpointtest.Save {
				return checkpointtest.None
			}
			m.topics.set(func() { clear(m.topics.bad) })
			return checkpointtest.Lost
		})
		m.server.commit(scriptTx{keys: []string{"b", "c"}, end: 20})
		time.Sleep(50 * time.Millisecond)
		m.store.Heal()
		m.settle()
		if st := m.p.Status(); st.Held || m.server.opens < 2 {
			t.Errorf("status %+v after %d streams, want it not to be held by the second", st, m.server.opens)
		}
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	})
}
