package pgsource

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"

	"github.com/walpost/walpost/pkg/cdc"
)

// checkStart judges a saved position, and returns where to start. It is a pure
// function of what the server said, and refuses a start that would lose events
// or invent them: the server itself moves a start below the confirmed position
// forward in silence, and honours one above without looking at the end of WAL.
func (s *Source) checkStart(saved cdc.Position, server serverState, slot *SlotState) (cdc.LSN, error) {
	if slot != nil {
		if err := CheckSlot(s.cfg.Slot, slot); err != nil {
			return 0, err
		}
	}
	if saved.IsZero() {
		return s.checkFirstStart(slot)
	}
	if err := s.checkHistory(saved, server); err != nil {
		return 0, err
	}
	switch {
	case slot == nil:
		return 0, cdc.Refuse("events since that position are gone from WAL: run walpost init, then "+cdc.StartAnew+"; "+fromTable,
			"slot %q does not exist, but its checkpoint stands at %s", s.cfg.Slot, saved.LSN)
	case saved.LSN > server.LSN:
		return 0, cdc.Refuse("the server has lost WAL, or the checkpoint is another server's: find out which, then "+cdc.StartAnew,
			"saved position %s of slot %q is beyond the end of WAL, %s", saved.LSN, s.cfg.Slot, server.LSN)
	case slot.ConfirmedFlush > saved.LSN && saved.Timeline == server.Timeline:
		return 0, cdc.Refuse("something else has read or advanced the slot, and events between the two were perhaps never published: "+cdc.StartAnew+"; "+fromTable,
			"slot %q is confirmed up to %s, beyond the saved position %s", s.cfg.Slot, slot.ConfirmedFlush, saved.LSN)
	}
	// After a failover the slot may be ahead of a checkpoint row that the old
	// primary did not get across. What was confirmed had been acknowledged.
	return max(saved.LSN, slot.ConfirmedFlush), nil
}

// fromTable is how events that are gone from WAL are published.
const fromTable = "once walpost run streams, walpost replay --source table publishes what is still in the table"

// CheckSlot refuses a slot that cannot be read from, with the way out.
func CheckSlot(name string, slot *SlotState) error {
	switch {
	case slot.Type != "logical" || slot.Plugin != "pgoutput":
		return cdc.Refuse("set postgres.slot to another name, or drop that slot if nothing needs it",
			"slot %q belongs to something else: it is %s with plugin %q, not logical with pgoutput", name, slot.Type, slot.Plugin)
	case slot.Database != slot.currentDatabase:
		return cdc.Refuse("connect to that database, or set postgres.slot to another name",
			"slot %q belongs to database %q, not to %q", name, slot.Database, slot.currentDatabase)
	case slot.TwoPhase:
		return cdc.Refuse("set postgres.slot to one without two_phase, as walpost init makes it: prepared transactions come from that when they are committed",
			"slot %q was made with two_phase, so that it brings transactions that may yet be rolled back", name)
	case slot.Lost():
		return cdc.Refuse("events since its last position are gone from WAL: drop the slot, run walpost init, raise max_slot_wal_keep_size, and "+cdc.StartAnew+"; "+fromTable,
			"slot %q is lost: the server has invalidated it (%s)", name, slot.LostReason())
	}
	return nil
}

func (s *Source) checkFirstStart(slot *SlotState) (cdc.LSN, error) {
	if slot != nil {
		return slot.ConfirmedFlush, nil
	}
	if !s.cfg.CreateSlot {
		return 0, cdc.Refuse("run walpost init, or set postgres.create_slot", "slot %q does not exist", s.cfg.Slot)
	}
	return 0, nil
}

// checkHistory refuses a position of another cluster, or of a branch of the
// cluster's history that the server is not on.
func (s *Source) checkHistory(saved cdc.Position, server serverState) error {
	switch {
	case saved.SystemID != server.SystemID:
		return cdc.Refuse("check postgres.dsn; if this is a new cluster, "+cdc.StartAnew,
			"checkpoint of slot %q is of another cluster: its system identifier is %d, the server's %d", s.cfg.Slot, saved.SystemID, server.SystemID)
	case saved.Timeline == server.Timeline:
		return nil
	case saved.Timeline > server.Timeline:
		return cdc.Refuse("this is an old primary or a restored copy: point postgres.dsn at the current one",
			"checkpoint of slot %q is of timeline %d, which the server on timeline %d has not reached", s.cfg.Slot, saved.Timeline, server.Timeline)
	}
	for _, sw := range server.history {
		if sw.timeline == saved.Timeline && saved.LSN <= sw.end {
			return nil
		}
	}
	return cdc.Refuse("events after the fork were lost with the old primary though they may be in Kafka: settle that, then "+cdc.StartAnew,
		"saved position %s of slot %q on timeline %d is not in the history of the server's timeline %d", saved.LSN, s.cfg.Slot, saved.Timeline, server.Timeline)
}

// parseHistory reads a timeline history file: lines of a timeline, the position
// where it was left, and a reason.
// https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-TIMELINES
func parseHistory(content string) ([]timelineSwitch, error) {
	var switches []timelineSwitch
	lines := bufio.NewScanner(strings.NewReader(content))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) < 2 {
			return nil, fmt.Errorf("parse timeline history: line %q", lines.Text())
		}
		tli, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil {
			return nil, fmt.Errorf("parse timeline history: %w", err)
		}
		end, err := cdc.ParseLSN(fields[1])
		if err != nil {
			return nil, fmt.Errorf("parse timeline history: %w", err)
		}
		switches = append(switches, timelineSwitch{uint32(tli), end})
	}
	return switches, lines.Err()
}
