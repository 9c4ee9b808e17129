package clone

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/walpost/walpost/pkg/cdc"
)

func at(lsn cdc.LSN) cdc.Position { return cdc.Position{SystemID: 7, Timeline: 2, LSN: lsn} }

// A start is refused exactly where events that the server does not know of are in Kafka.
func TestJudge(t *testing.T) {
	const store = "postgres"
	checkpoint := func(lsn cdc.LSN, epoch int64) cdc.Checkpoint {
		return cdc.Checkpoint{Position: at(lsn), Epoch: epoch}
	}
	server := at(100)
	tests := []struct {
		name string
		mark Mark
		own  cdc.Checkpoint
		why  string // of a refusal; empty if there is none
	}{
		{name: "Same", mark: Mark{Store: store, Checkpoint: checkpoint(50, 3)}, own: checkpoint(50, 3)},
		{name: "MarkLags", mark: Mark{Store: store, Checkpoint: checkpoint(40, 2)}, own: checkpoint(50, 3)},
		{name: "AtTheEndOfWAL", mark: Mark{Store: store, Checkpoint: checkpoint(100, 3)}, own: checkpoint(100, 3)},
		{name: "BeyondTheEndOfWAL", mark: Mark{Store: store, Checkpoint: checkpoint(101, 3)}, own: checkpoint(50, 3), why: "beyond the end of WAL here, 0/64"},
		{name: "BeyondTheEndWithoutCheckpoint", mark: Mark{Store: store, Checkpoint: checkpoint(101, 3)}, why: "beyond the end of WAL here, 0/64"},
		{name: "BeyondTheCheckpoint", mark: Mark{Store: store, Checkpoint: checkpoint(51, 3)}, own: checkpoint(50, 3), why: "beyond the checkpoint here, 0/32"},
		{name: "BeyondTheCheckpointOfAnotherTimeline", mark: Mark{Store: store, Checkpoint: checkpoint(51, 3)}, own: cdc.Checkpoint{Position: cdc.Position{SystemID: 7, Timeline: 1, LSN: 50}, Epoch: 3}},
		{name: "LaterEpoch", mark: Mark{Store: store, Checkpoint: checkpoint(50, 4)}, own: checkpoint(50, 3), why: "in epoch 4 of its checkpoint, at 0/32, and the epoch here is 3"},
		{name: "LaterEpochWithoutPosition", mark: Mark{Store: store, Checkpoint: checkpoint(50, 4)}, own: cdc.Checkpoint{Epoch: 3}},
		{name: "AcquiredAndNotSaved", mark: Mark{Store: store, Checkpoint: checkpoint(50, 3)}, own: cdc.Checkpoint{Epoch: 3}},
		{name: "CheckpointRemovedByHand", mark: Mark{Store: store, Checkpoint: checkpoint(50, 4)}},
		{name: "OtherStore", mark: Mark{Store: "file", Checkpoint: checkpoint(51, 4)}, own: checkpoint(50, 3)},
		{name: "StoreWithoutEpoch", mark: Mark{Store: "slot", Checkpoint: checkpoint(60, 0)}, own: checkpoint(50, 0)},
		{name: "OtherTimeline", mark: Mark{Store: store, Checkpoint: cdc.Checkpoint{Position: cdc.Position{SystemID: 7, Timeline: 1, LSN: 101}, Epoch: 9}}, own: checkpoint(50, 3)},
		{name: "OtherSystem", mark: Mark{Store: store, Checkpoint: cdc.Checkpoint{Position: cdc.Position{SystemID: 8, Timeline: 2, LSN: 101}, Epoch: 9}}, own: checkpoint(50, 3)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			own := store
			if tt.mark.Store == "slot" {
				own = "slot"
			}
			tt.mark.Slot, tt.mark.Owner = "orders", "there/1"
			err := tt.mark.judge(tt.own, own, server)
			var refused *cdc.RefusedError
			switch {
			case tt.why == "" && err != nil:
				t.Errorf("judge() = %v, want nil", err)
			case tt.why != "" && (!errors.As(err, &refused) || refused.Hint != hint || !strings.Contains(err.Error(), tt.why)):
				t.Errorf("judge() = %v, want a refusal with %q", err, tt.why)
			case tt.why != "" && (!strings.Contains(err.Error(), `"orders"`) || !strings.Contains(err.Error(), "there/1")):
				t.Errorf("judge() = %v, want the slot and the owner", err)
			}
		})
	}
}

// No key is that of a checkpoint, which is <system identifier>-<slot>, nor that of another slot
// or of who publishes elsewhere.
func TestKey(t *testing.T) {
	checkpoints := regexp.MustCompile(`^[0-9]+-`)
	seen := map[string]bool{}
	for _, key := range []string{
		key(7, "a", "t"), key(7, "b", "t"), key(8, "a", "t"), key(7, "a", "u"), key(7, "a", "outbox.event.${routedByValue}"),
		key(77, "a", "t"), key(7, "7-a", "t"),
	} {
		if checkpoints.MatchString(key) || seen[key] {
			t.Errorf("key %q is taken", key)
		}
		seen[key] = true
	}
}

func TestParse(t *testing.T) {
	want := Mark{Slot: "s", Owner: "o", Store: "file", Checkpoint: cdc.Checkpoint{Position: at(5), Epoch: 2}}
	note, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parse(note); err != nil || got != want {
		t.Errorf("parse() = %+v, %v, want %+v", got, err, want)
	}
	for _, note := range []string{"", "hello", "{}", `[]`} {
		if m, err := parse([]byte(note)); err == nil {
			t.Errorf("parse(%q) = %+v", note, m)
		}
	}
}
