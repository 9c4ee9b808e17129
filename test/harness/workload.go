package harness

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Shape is how events are written.
type Shape string

// The shapes.
const (
	OneRow Shape = "one-row transactions"
	Rows   Shape = "500-row transactions"
	Copy   Shape = "COPY"
	OneTx  Shape = "one transaction with savepoints rolled back"
)

// Shapes are all of them.
var Shapes = []Shape{OneRow, Rows, Copy, OneTx}

// setup makes an outbox table with a column that rises in commit order, and the
// procedures that fill it. One session writes, so the order of the numbers is
// the order of the commits.
const setup = `
	CREATE TABLE outbox (
		id uuid PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL,
		type text NOT NULL, payload jsonb, seq bigint NOT NULL);
	CREATE FUNCTION event(n bigint) RETURNS outbox LANGUAGE sql VOLATILE AS $$
		SELECT gen_random_uuid(), 'order', 'order-' || n::bigint * 7919 % 1000, 'created',
			jsonb_build_object('n', n, 'amount', (n || '12345678901234567890.123456789')::numeric, 'note', repeat('päyload 😀 ', 20)), n
	$$;
	CREATE PROCEDURE fill(first bigint, last bigint, batch int) LANGUAGE plpgsql AS $$
	DECLARE n bigint := first;
	BEGIN
		WHILE n <= last LOOP
			INSERT INTO outbox SELECT e.* FROM generate_series(n, least(n + batch - 1, last)) i, event(i) e;
			COMMIT;
			n := n + batch;
		END LOOP;
	END $$;
	CREATE PROCEDURE fill_one(first bigint, last bigint) LANGUAGE plpgsql AS $$
	DECLARE n bigint;
	BEGIN
		FOR n IN first..last LOOP
			INSERT INTO outbox SELECT gen_random_uuid(), 'order', 'order-' || n::bigint * 7919 % 1000, 'created',
				jsonb_build_object('n', n, 'amount', (n || '12345678901234567890.123456789')::numeric, 'note', repeat('päyload 😀 ', 20)), n;
			COMMIT;
		END LOOP;
	END $$;
	CREATE PROCEDURE fill_savepoints(first bigint, last bigint, batch int) LANGUAGE plpgsql AS $$
	DECLARE n bigint := first;
	BEGIN
		WHILE n <= last LOOP
			INSERT INTO outbox SELECT e.* FROM generate_series(n, least(n + batch - 1, last)) i, event(i) e;
			BEGIN
				INSERT INTO outbox SELECT e.* FROM generate_series(n, n + batch / 10) i, event(-i) e;
				RAISE EXCEPTION USING ERRCODE = 'WALPO';
			EXCEPTION WHEN SQLSTATE 'WALPO' THEN NULL;
			END;
			n := n + batch;
		END LOOP;
	END $$;`

// Setup makes the table outbox and what fills it in an empty database, and a
// publication for it.
func Setup(ctx context.Context, conn *pgx.Conn, publication string) error {
	if _, err := conn.Exec(ctx, setup); err != nil {
		return fmt.Errorf("set up workload: %w", err)
	}
	_, err := conn.Exec(ctx, "CREATE PUBLICATION "+pgx.Identifier{publication}.Sanitize()+" FOR TABLE outbox WITH (publish = 'insert')")
	return err
}

// Fill writes events number first to last in a shape. Afterwards all of them
// are committed.
func Fill(ctx context.Context, conn *pgx.Conn, shape Shape, first, last int64) error {
	var err error
	switch shape {
	case OneRow:
		_, err = conn.Exec(ctx, "CALL fill_one($1, $2)", pgx.QueryExecModeExec, first, last)
	case Rows:
		_, err = conn.Exec(ctx, "CALL fill($1, $2, 500)", pgx.QueryExecModeExec, first, last)
	case OneTx:
		_, err = conn.Exec(ctx, "CALL fill_savepoints($1, $2, 5000)", pgx.QueryExecModeExec, first, last)
	case Copy:
		err = fillByCopy(ctx, conn, first, last)
	default:
		err = fmt.Errorf("unknown shape %q", shape)
	}
	if err != nil {
		return fmt.Errorf("fill by %s: %w", shape, err)
	}
	return nil
}

// copyBatch is the number of rows of one COPY, and so of one transaction.
const copyBatch = 50_000

func fillByCopy(ctx context.Context, conn *pgx.Conn, first, last int64) error {
	columns := []string{"id", "aggregatetype", "aggregateid", "type", "payload", "seq"}
	for n := first; n <= last; n += copyBatch {
		end := min(n+copyBatch-1, last)
		rows, err := conn.Query(ctx, "SELECT e.* FROM generate_series($1::bigint, $2::bigint) i, event(i) e", n, end)
		if err != nil {
			return err
		}
		values, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
		if err != nil {
			return err
		}
		if _, err := conn.CopyFrom(ctx, pgx.Identifier{"outbox"}, columns, pgx.CopyFromRows(values)); err != nil {
			return err
		}
	}
	return nil
}
