package cdc_test

import (
	"testing"

	"github.com/walpost/walpost/pkg/cdc"
)

// A letter's event is held while its lot is open and it is behind the lot's dead event.
func TestLotsHold(t *testing.T) {
	lots := cdc.NewLots("s")
	at := cdc.Position{SystemID: 7, Timeline: 1}
	var letters []*cdc.Letter
	apply := func(l *cdc.Letter) {
		l.Slot, l.Owner, l.Offset = "s", "o", int64(len(letters))
		letters = append(letters, l)
		lots.Apply(l)
	}
	event := func(kind cdc.LetterKind, key string, lsn cdc.LSN) {
		rec := &cdc.Record{Topic: "t", CommitLSN: lsn, Ordinal: 1}
		if key != "" {
			rec.Key = []byte(key)
		}
		apply(&cdc.Letter{Kind: kind, History: at, Event: rec})
	}
	settle := func(offset int64, dead *cdc.DeadLetter, parked int) {
		s := &cdc.Settled{Topic: "t", Offset: offset, Dead: dead, Parked: parked, Key: letters[offset].Event.Key}
		apply(&cdc.Letter{Kind: cdc.LetterSettled, Settled: s})
	}
	for lsn, key := range []string{"settled", "again", "moved", "", ""} { // at offsets 0 to 4
		event(cdc.LetterDead, key, cdc.LSN(lsn+1))
	}
	event(cdc.LetterParked, "settled", 10) // 5
	event(cdc.LetterParked, "again", 11)   // 6
	event(cdc.LetterParked, "moved", 12)   // 7
	event(cdc.LetterParked, "moved", 13)   // 8
	event(cdc.LetterParked, "moved", 12)   // 9, which has come again after a crash
	settle(0, nil, 0)                      // 10
	settle(1, nil, 0)                      // 11
	event(cdc.LetterDead, "again", 14)     // 12
	settle(2, &cdc.DeadLetter{Offset: 8, Position: cdc.Position{SystemID: 7, Timeline: 1, LSN: 13}, Ordinal: 1}, 0)
	settle(4, nil, 0)
	event(cdc.LetterParked, "again", 15) // 15
	want := map[int64]bool{3: true, 8: true, 12: true, 15: true}
	for _, l := range letters {
		if got := lots.Holds(l); got != want[l.Offset] {
			t.Errorf("letter %d (%s): held %v, want %v", l.Offset, l.Kind, got, want[l.Offset])
		}
	}
	other := *letters[3]
	if other.Slot = "another"; lots.Holds(&other) {
		t.Error("another slot's letter is held")
	}
}
