package pgsource

import (
	"errors"
	"strings"
	"testing"

	"github.com/walpost/walpost/pkg/cdc"
)

func TestCheckStart(t *testing.T) {
	good := SlotState{Plugin: "pgoutput", Type: "logical", Database: "db", currentDatabase: "db", WALStatus: "reserved", ConfirmedFlush: 50}
	with := func(edit func(*SlotState)) *SlotState {
		s := good
		edit(&s)
		return &s
	}
	server := serverState{Position: cdc.Position{SystemID: 1, Timeline: 3, LSN: 200}, history: []timelineSwitch{{1, 80}, {2, 120}}}
	at := func(system uint64, timeline uint32, lsn cdc.LSN) cdc.Position {
		return cdc.Position{SystemID: system, Timeline: timeline, LSN: lsn}
	}
	tests := []struct {
		name   string
		saved  cdc.Position
		slot   *SlotState
		create bool
		want   cdc.LSN
		err    string // part of the refusal
	}{
		{name: "Saved", saved: at(1, 3, 100), slot: &good, want: 100},
		{name: "SavedIsConfirmed", saved: at(1, 3, 50), slot: &good, want: 50},
		{name: "SavedAtEndOfWAL", saved: at(1, 3, 200), slot: &good, want: 200},
		{name: "FirstStartWithSlot", slot: &good, want: 50},
		{name: "FirstStartCreates", create: true, want: 0},
		{name: "FirstStartMayNotCreate", err: "does not exist"},
		{name: "SlotVanished", saved: at(1, 3, 100), create: true, err: "but its checkpoint stands at 0/64"},
		{name: "BeyondEndOfWAL", saved: at(1, 3, 201), slot: &good, err: "beyond the end of WAL"},
		{name: "SlotAhead", saved: at(1, 3, 49), slot: &good, err: "beyond the saved position"},
		{name: "OtherCluster", saved: at(2, 3, 100), slot: &good, err: "another cluster"},
		{name: "OldPrimary", saved: at(1, 4, 100), slot: &good, err: "has not reached"},
		{name: "Promoted", saved: at(1, 2, 120), slot: &good, want: 120},
		{name: "PromotedBehindTheSwitch", saved: at(1, 2, 121), slot: &good, err: "not in the history"},
		{name: "PromotedTwice", saved: at(1, 1, 80), slot: &good, want: 80},
		{name: "PromotedTwiceBehindTheFirst", saved: at(1, 1, 81), slot: &good, err: "not in the history"},
		{name: "PromotedWithSlotAhead", saved: at(1, 2, 40), slot: &good, want: 50},
		{name: "Lost", saved: at(1, 3, 100), slot: with(func(s *SlotState) { s.WALStatus = "lost" }), err: "is lost"},
		{name: "Invalidated", saved: at(1, 3, 100), slot: with(func(s *SlotState) { s.InvalidationReason = "idle_timeout" }), err: "idle_timeout"},
		{name: "Conflicting", saved: at(1, 3, 100), slot: with(func(s *SlotState) { s.Conflicting = true }), err: "conflicting"},
		{name: "OtherPlugin", slot: with(func(s *SlotState) { s.Plugin = "wal2json" }), err: "belongs to something else"},
		{name: "TwoPhase", slot: with(func(s *SlotState) { s.TwoPhase = true }), err: "two_phase"},
		{name: "Physical", slot: with(func(s *SlotState) { s.Type = "physical" }), err: "belongs to something else"},
		{name: "OtherDatabase", slot: with(func(s *SlotState) { s.Database = "other" }), err: `belongs to database "other"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := &Source{cfg: Config{Slot: "s", CreateSlot: tt.create}}
			got, err := s.checkStart(tt.saved, server, tt.slot)
			if tt.err == "" {
				if got != tt.want || err != nil {
					t.Errorf("got %s, %v, want %s", got, err, tt.want)
				}
				return
			}
			var refused *cdc.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.err) || refused.Hint == "" {
				t.Errorf("got %v, want a refusal with %q and a hint", err, tt.err)
			}
		})
	}
}

func TestParseHistory(t *testing.T) {
	got, err := parseHistory("1\t0/5000000\tno recovery target specified\n\n# comment\n2\t1/A0\tbefore 2000-01-01\n")
	if err != nil || len(got) != 2 || got[0] != (timelineSwitch{1, 0x5000000}) || got[1] != (timelineSwitch{2, 0x1_000000A0}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"1", "x 0/1", "1 zero"} {
		if _, err := parseHistory(bad); err == nil {
			t.Errorf("parseHistory(%q) gave no error", bad)
		}
	}
}
