package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// tableFaults are what may be done to tables while their rows are published. None
// of it may cost an event.
var tableFaults = []fault{
	{"table: column added and dropped", 3, columnAddedAndDropped},
	{"table: payload type changed", 3, payloadTypeChanged},
	{"table: VACUUM FULL", 1, func(_ context.Context, s *stage, _ *rand.Rand) error { return s.sql("VACUUM FULL outbox") }},
	{"table: TRUNCATE", 2, func(_ context.Context, s *stage, r *rand.Rand) error {
		return s.sql("TRUNCATE " + one(r, "outbox", "outbox_parts", "outbox, outbox_parts, other"))
	}},
	{"table: partition attached and detached", 4, partitionReplaced},
	{"table: bulk load elsewhere", 2, bulkLoad},
}

// columnAddedAndDropped also takes the stream out of binary format and back: a
// numeric column is read as text.
func columnAddedAndDropped(_ context.Context, s *stage, r *rand.Rand) error {
	table, kind := one(r, "outbox", "outbox_parts"), one(r, "int", "numeric DEFAULT 1.5", "text DEFAULT 'x'")
	if err := s.sql(fmt.Sprintf("ALTER TABLE %s ADD COLUMN extra %s", table, kind)); err != nil {
		return err
	}
	<-time.After(between(r, 0, 500*time.Millisecond)) // rows of the new shape
	return s.sql(fmt.Sprintf("ALTER TABLE %s DROP COLUMN extra", table))
}

func payloadTypeChanged(_ context.Context, s *stage, r *rand.Rand) error {
	table := one(r, "outbox", "outbox_parts")
	for _, kind := range []string{"varchar(200000)", "text"} {
		if err := s.sql(fmt.Sprintf("ALTER TABLE %s ALTER COLUMN payload TYPE %s", table, kind)); err != nil {
			return err
		}
		<-time.After(between(r, 0, 300*time.Millisecond)) // rows of the new type
	}
	return nil
}

// partitionReplaced attaches a partition whose columns are in another order, turns
// the writer to it, then takes the old one away.
func partitionReplaced(_ context.Context, s *stage, r *rand.Rand) error {
	old, next := s.lanes, s.lanes+1
	if err := s.sql(
		fmt.Sprintf(`CREATE TABLE outbox_parts_%d (at timestamptz NOT NULL DEFAULT clock_timestamp(), lane int, seq bigint NOT NULL, payload text,
			type text NOT NULL, id uuid, aggregateid text NOT NULL, aggregatetype text NOT NULL)`, next),
		fmt.Sprintf("ALTER TABLE outbox_parts ATTACH PARTITION outbox_parts_%[1]d FOR VALUES IN (%[1]d)", next)); err != nil {
		return err
	}
	s.lanes = next
	<-time.After(between(r, 0, 200*time.Millisecond)) // both are there
	s.writer.lane.Store(int64(next))
	<-time.After(between(r, 0, 200*time.Millisecond)) // the last rows of the old one
	if err := s.sql(fmt.Sprintf("ALTER TABLE outbox_parts DETACH PARTITION outbox_parts_%d", old)); err != nil {
		return err
	}
	if r.IntN(2) == 0 {
		return s.sql(fmt.Sprintf("DROP TABLE outbox_parts_%d", old))
	}
	return nil
}

// bulkLoad writes much into a table that is not published.
func bulkLoad(_ context.Context, s *stage, r *rand.Rand) error {
	return s.sql(fmt.Sprintf("INSERT INTO busy SELECT n, repeat('x', 100) FROM generate_series(1, %d) n", 20_000+r.IntN(180_000)))
}
