package crash

import (
	"context"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// step writes one transaction and says how long to wait before the next.
type step func(ctx context.Context, s *session) (pause time.Duration, err error)

// steps are what the sessions do, one session each.
var steps = []step{oneRow, oneRow, mixed, mixed, batches, overlapping, large, unrelated}

// run writes until ctx is done. What a server refuses, because it is down, is
// shutting down or has changed the table, is tried again with other rows.
func (w *writer) run(ctx context.Context, random func(n uint64) *rand.Rand) {
	var all sync.WaitGroup
	for n, do := range steps {
		s := w.session(uint32(n+1), random(uint64(n)))
		all.Go(func() {
			defer s.close()
			for ctx.Err() == nil {
				pause, err := do(ctx, s)
				if err != nil {
					pause = 20 * time.Millisecond
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	all.Wait()
}

func (s *session) between(low, high time.Duration) time.Duration {
	return low + time.Duration(s.rng.Int64N(int64(high-low)))
}

// insert writes rows with one statement, into the partition that takes rows if the
// table has any.
func (t *txn) insert(ctx context.Context, table string, rows []row) error {
	return t.insertLane(ctx, table, t.w.lane.Load(), rows)
}

func (t *txn) insertLane(ctx context.Context, table string, lane int64, rows []row) error {
	n := len(rows)
	ids, routes, keys, seqs, payloads := make([]string, n), make([]string, n), make([]string, n), make([]int64, n), make([]*string, n)
	for i, r := range rows {
		ids[i], routes[i], keys[i], seqs[i], payloads[i] = r.id, r.route, r.key, r.seq, r.payload
	}
	_, err := t.conn.Exec(ctx, "INSERT INTO "+table+` (id, aggregatetype, aggregateid, type, payload, seq, lane)
		SELECT u.id::uuid, u.route, u.key, '`+eventType+`', u.payload, u.seq, $6
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) u(id, route, key, payload, seq)`,
		ids, routes, keys, payloads, seqs, lane)
	return err
}

// table is one of the two outboxes.
func (t *txn) table() string {
	if t.rng.IntN(3) == 0 {
		return "outbox_parts"
	}
	return "outbox"
}

func oneRow(ctx context.Context, s *session) (time.Duration, error) {
	err := s.write(ctx, func(ctx context.Context, t *txn) error {
		return t.insert(ctx, t.table(), t.rows(1, t.own))
	})
	return s.between(2*time.Millisecond, 20*time.Millisecond), err
}

// mixed writes a few rows, some of a key that other sessions write too, changes
// and deletes old ones, and now and then rolls all of it back.
func mixed(ctx context.Context, s *session) (time.Duration, error) {
	err := s.write(ctx, func(ctx context.Context, t *txn) error {
		pick := t.own
		if s.rng.IntN(2) == 0 {
			k := s.w.shared[s.rng.IntN(len(s.w.shared))]
			if err := t.lock(ctx, k); err != nil {
				return err
			}
			pick = func() *key { return k }
		}
		if err := t.insert(ctx, t.table(), t.rows(1+s.rng.IntN(10), pick)); err != nil {
			return err
		}
		if err := t.alter(ctx); err != nil {
			return err
		}
		if s.rng.IntN(10) == 0 {
			return errRollback
		}
		return nil
	})
	return s.between(10*time.Millisecond, 60*time.Millisecond), err
}

// alter changes and deletes rows, which are no events.
func (t *txn) alter(ctx context.Context) error {
	if len(t.old) < 50 {
		return nil
	}
	gone := t.old[:len(t.old)/2]
	t.old = append([]string(nil), t.old[len(t.old)/2:]...)
	_, err := t.conn.Exec(ctx, "UPDATE outbox SET payload = 'changed', type = 'Nothing' WHERE id = ANY($1::text[]::uuid[])", t.old)
	if err == nil {
		_, err = t.conn.Exec(ctx, "DELETE FROM outbox WHERE id = ANY($1::text[]::uuid[])", gone)
	}
	return err
}

// batches writes 500 rows, or COPYs up to 2000.
func batches(ctx context.Context, s *session) (time.Duration, error) {
	err := s.write(ctx, func(ctx context.Context, t *txn) error {
		if s.rng.IntN(2) == 0 {
			return t.insert(ctx, t.table(), t.rows(500, t.own))
		}
		rows := t.rows(200+s.rng.IntN(1800), t.own)
		columns := []string{"id", "aggregatetype", "aggregateid", "type", "payload", "seq", "lane"}
		lane := t.w.lane.Load()
		_, err := t.conn.CopyFrom(ctx, pgx.Identifier{t.table()}, columns, pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) {
			r := rows[i]
			return []any{r.id, r.route, r.key, eventType, r.payload, r.seq, lane}, nil
		}))
		return err
	})
	return s.between(time.Second, 4*time.Second), err
}

// overlapping keeps a small transaction open while others commit.
func overlapping(ctx context.Context, s *session) (time.Duration, error) {
	err := s.write(ctx, func(ctx context.Context, t *txn) error {
		for range 2 + s.rng.IntN(4) {
			if err := t.insert(ctx, t.table(), t.rows(1+s.rng.IntN(3), t.own)); err != nil {
				return err
			}
			if err := pause(ctx, s.between(0, 80*time.Millisecond)); err != nil {
				return err
			}
		}
		return nil
	})
	return s.between(5*time.Millisecond, 50*time.Millisecond), err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d): // an open transaction is the point
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// large writes some thousand rows, which the server streams before the commit,
// with savepoints rolled back in between; now and then all of it.
func large(ctx context.Context, s *session) (time.Duration, error) {
	err := s.write(ctx, func(ctx context.Context, t *txn) error {
		for range 4 + s.rng.IntN(14) {
			if err := t.insert(ctx, t.table(), t.rows(150, t.own)); err != nil {
				return err
			}
			if err := t.rolledBack(ctx, 1+s.rng.IntN(60)); err != nil {
				return err
			}
		}
		if s.rng.IntN(8) == 0 {
			return errRollback
		}
		return nil
	})
	return s.between(300*time.Millisecond, 4*time.Second), err
}

// rolledBack writes rows in a savepoint, in half of the cases with another inside
// that is kept, and takes them back.
func (t *txn) rolledBack(ctx context.Context, n int) error {
	for _, sql := range []string{"SAVEPOINT a", "SAVEPOINT b"}[:1+t.rng.IntN(2)] {
		if _, err := t.conn.Exec(ctx, sql); err != nil {
			return err
		}
		if err := t.insert(ctx, t.table(), t.ghosts(n)); err != nil {
			return err
		}
	}
	_, err := t.conn.Exec(ctx, "ROLLBACK TO a; RELEASE a", pgx.QueryExecModeSimpleProtocol)
	return err
}

// unrelated keeps other tables busy, one of them in the publication, and deletes
// old events.
func unrelated(ctx context.Context, s *session) (time.Duration, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return 0, err
	}
	sql := "INSERT INTO busy SELECT n, repeat('x', 100) FROM generate_series(1, " + strconv.Itoa(1+s.rng.IntN(200)) + ") n"
	switch s.rng.IntN(20) {
	case 0:
		sql = "DELETE FROM outbox WHERE at < now() - interval '5 s'"
	case 1:
		sql = "TRUNCATE busy"
	case 2, 3, 4:
		sql = "INSERT INTO other SELECT gen_random_uuid(), '0', 'other', 'x', 'x', n FROM generate_series(1, 20) n"
	}
	_, err = conn.Exec(ctx, sql)
	return s.between(20*time.Millisecond, 100*time.Millisecond), s.broken(err)
}
