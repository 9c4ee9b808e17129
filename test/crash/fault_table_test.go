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
	{"table: published for itself, then attached", 3, strangerAttached},
	{"table: attached in the transaction of its rows", 3, attachedInTransaction},
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
	next := s.lanes + 1
	if err := s.sql(createPartition(next), attachPartition(next)); err != nil {
		return err
	}
	return s.turnTo(next, r)
}

func createPartition(n int) string {
	return fmt.Sprintf(`CREATE TABLE outbox_parts_%d (at timestamptz NOT NULL DEFAULT clock_timestamp(), lane int, seq bigint NOT NULL, payload text,
		type text NOT NULL, id uuid, aggregateid text NOT NULL, aggregatetype text NOT NULL)`, n)
}

func attachPartition(n int) string {
	return fmt.Sprintf("ALTER TABLE outbox_parts ATTACH PARTITION outbox_parts_%[1]d FOR VALUES IN (%[1]d)", n)
}

// turnTo makes the writer write to the next partition, and takes the old one away.
func (s *stage) turnTo(next int, r *rand.Rand) error {
	old := s.lanes
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

// strangerAttached makes a partition of a table that walpost has seen as another's:
// it was published for itself. What came before it was attached is no event at the
// time, and may become one if it is read again later.
func strangerAttached(ctx context.Context, s *stage, r *rand.Rand) error {
	next := s.lanes + 1
	table := fmt.Sprintf("outbox_parts_%d", next)
	if err := s.sql(append([]string{createPartition(next)}, s.published("ADD TABLE "+table)...)...); err != nil {
		return err
	}
	for _, n := range []int{5, 500} { // the last is streamed before its commit
		err := s.until(maxRecovery, "the writer can write", func() bool {
			return s.probe.write(ctx, func(ctx context.Context, t *txn) error {
				if err := t.insertStrangers(ctx, table, next, n); err != nil {
					return err
				}
				return t.insert(ctx, "outbox", t.rows(1, t.own))
			}) == nil
		})
		if err != nil {
			return err
		}
	}
	if r.IntN(2) == 0 {
		if err := s.recovered(); err != nil { // it has seen them
			return err
		}
	}
	if err := s.sql(append([]string{attachPartition(next)}, s.unpublish(table)...)...); err != nil {
		return err
	}
	return s.turnTo(next, r)
}

// unpublish takes a partition out of the publication for itself; it stays in it as a
// part of its root. Else its rows would be none of the outbox's as soon as it is
// detached, which is not promised: see docs/guarantees.md.
func (s *stage) unpublish(table string) []string { return s.published("DROP TABLE " + table) }

// attachedInTransaction writes to a table, attaches it and writes on in the same
// transaction, which is streamed before its commit.
func attachedInTransaction(ctx context.Context, s *stage, r *rand.Rand) error {
	next := s.lanes + 1
	table := fmt.Sprintf("outbox_parts_%d", next)
	before, after := 1+r.IntN(400), 1+r.IntN(400)
	err := s.until(maxRecovery, "the writer can write", func() bool {
		return s.probe.write(ctx, func(ctx context.Context, t *txn) error {
			for _, sql := range append([]string{createPartition(next)}, s.published("ADD TABLE "+table)...) {
				if _, err := t.conn.Exec(ctx, sql); err != nil {
					return err
				}
			}
			if err := t.insertStrangers(ctx, table, next, before); err != nil {
				return err
			}
			if _, err := t.conn.Exec(ctx, attachPartition(next)); err != nil {
				return err
			}
			return t.insertLane(ctx, "outbox_parts", int64(next), t.rows(after, t.own))
		}) == nil
	})
	if err == nil {
		err = s.sql(s.unpublish(table)...)
	}
	if err != nil {
		return err
	}
	return s.turnTo(next, r)
}

// insertStrangers writes rows into a table that is not an outbox yet.
func (t *txn) insertStrangers(ctx context.Context, table string, lane, n int) error {
	rows := t.ghosts(n)
	t.w.ledger.allow(rows)
	return t.insertLane(ctx, table, int64(lane), rows)
}

// bulkLoad writes much into a table that is not published.
func bulkLoad(_ context.Context, s *stage, r *rand.Rand) error {
	return s.sql(fmt.Sprintf("INSERT INTO busy SELECT n, repeat('x', 100) FROM generate_series(1, %d) n", 20_000+r.IntN(180_000)))
}
