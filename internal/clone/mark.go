// Package clone notices a copy of a database's disk. With the disk comes all that the
// database knows of itself: its checkpoint, its slot and its system identifier. What it
// cannot bring along is noted in Kafka: how far the database has been published. A copy
// that is pointed at the same brokers finds there what is beyond its own.
package clone

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/walpost/walpost/pkg/cdc"
)

// Mark says how far a database has been published through a slot.
type Mark struct {
	Slot  string `json:"slot"`
	Owner string `json:"owner"`
	Store string `json:"store"`

	// Checkpoint is what was saved. It has no Partial, and its Epoch is zero if the store
	// has none.
	cdc.Checkpoint
}

// key is the mark's in the progress topic. The key of a checkpoint there begins with a
// digit. Who publishes into other topics is in nobody's way.
func key(systemID uint64, slot, topic string) string {
	return fmt.Sprintf("published/%d-%s/%s", systemID, slot, topic)
}

func parse(note []byte) (Mark, error) {
	var m Mark
	err := json.Unmarshal(note, &m)
	if err == nil && m.SystemID == 0 {
		err = errors.New("it has no system identifier")
	}
	return m, err
}

// hint is what to do about a refusal.
const hint = "if this is a copy, point kafka.brokers or outbox.topic elsewhere; if it takes the other's place, stop the other and run walpost checkpoint set LSN --force with the position that walpost checkpoint show prints, or if there is none with the confirmed_flush_lsn of the slot"

// judge refuses a server that the mark, which is of its database, does not agree with. Own
// is the server's checkpoint, in the store of that name, before this process has changed it.
//
// A mark is written after the save of what it says. So within one history a server behind
// it is another one, or lost what it had. A checkpoint tells only if it is of the same store
// and has a position, or it may have been removed by hand a moment ago; the slot's goes back
// with a crash of the server. The histories of two timelines are not compared here.
func (m Mark) judge(own cdc.Checkpoint, store string, server cdc.Position) error {
	if m.SystemID != server.SystemID || m.Timeline != server.Timeline {
		return nil
	}
	kept := own.Epoch > 0 && store == m.Store && own.SystemID == m.SystemID && own.Timeline == m.Timeline
	const (
		copied = "so it is a copy of another server, or was set back to an earlier state: "
		where  = "events that this server does not know of are in Kafka already, " + copied
	)
	switch {
	case m.LSN > server.LSN:
		return cdc.Refuse(hint, where+"slot %q was published up to %s by %s, beyond the end of WAL here, %s", m.Slot, m.LSN, m.Owner, server.LSN)
	case kept && m.Epoch > own.Epoch:
		return cdc.Refuse(hint, "this database has been published from elsewhere since, and this server does not know of it, "+copied+"slot %q was published by %s in epoch %d of its checkpoint, at %s, and the epoch here is %d", m.Slot, m.Owner, m.Epoch, m.LSN, own.Epoch)
	case kept && m.LSN > own.LSN:
		return cdc.Refuse(hint, where+"slot %q was published up to %s by %s, beyond the checkpoint here, %s", m.Slot, m.LSN, m.Owner, own.LSN)
	}
	return nil
}
