// Package partition makes, detaches and drops the partitions of outbox tables that walpost
// init has partitioned by time. What needs more rights than walpost's role has is done by
// the functions of 004_partitions.sql.
package partition

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/pkg/cdc"
)

// Table is an outbox table whose partitions walpost makes and drops.
type Table struct {
	Name   pgx.Identifier // schema and name
	Key    string         // the column that it is partitioned by
	Period string         // day or week

	oid   int64
	owned bool // the session has the rights of the table's owner
}

// State is what has become of a partition.
type State string

// The states, in the order in which a partition goes through them.
const (
	Attached State = "attached"
	Pending  State = "pending"  // its DETACH CONCURRENTLY was begun, and broken off
	Detached State = "detached" // and still to be dropped
)

// Partition is one of a table. Its bounds are nil where there is none, and once it is detached.
type Partition struct {
	Name         pgx.Identifier
	State        State
	Lower, Upper *time.Time

	oid int64
}

// ErrInUse says that other sessions hold locks that are in the way for now.
var ErrInUse = errors.New("in use by other sessions")

// The SQLSTATEs that are told apart.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	codeInsufficientPrivilege = "42501"
	codeUndefinedFunction     = "42883"
	codeInvalidSchema         = "3F000"
	codeLockNotAvailable      = "55P03"
	codeDeadlock              = "40P01"
)

// Find returns the table if walpost makes and drops its partitions, else nil. It needs no
// rights.
func Find(ctx context.Context, conn *pgx.Conn, name pgx.Identifier) (*Table, error) {
	const query = `
		SELECT c.oid::bigint, a.attname, pg_has_role(c.relowner, 'USAGE'),
			coalesce(substring(col_description(c.oid, a.attnum) FROM '^Partitions by (day|week), made and dropped by walpost$'), '')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			JOIN pg_partitioned_table p ON p.partrelid = c.oid AND p.partstrat = 'r' AND p.partnatts = 1
			JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] AND a.atttypid = 'timestamptz'::regtype
		WHERE n.nspname = $1 AND c.relname = $2`
	t := Table{Name: name}
	err := conn.QueryRow(ctx, query, name[0], name[1]).Scan(&t.oid, &t.Key, &t.owned, &t.Period)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && t.Period == "":
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look up table %s: %w", name.Sanitize(), err)
	}
	return &t, nil
}

// List returns the partitions, those first that are farthest on their way out, and then by
// their bounds.
func (t *Table) List(ctx context.Context, conn *pgx.Conn) ([]Partition, error) {
	const query = `
		SELECT n.nspname, c.relname, c.oid::bigint, p.state, nullif(p.lower, '-infinity'), nullif(p.upper, 'infinity')
		FROM walpost.partitions($1::bigint::oid::regclass) p JOIN pg_class c ON c.oid = p.part JOIN pg_namespace n ON n.oid = c.relnamespace
		ORDER BY array_position(ARRAY['detached', 'pending'], p.state) NULLS LAST, p.upper, c.relname`
	rows, err := conn.Query(ctx, query, t.oid)
	if err != nil {
		return nil, t.explain("list", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Partition, error) {
		p := Partition{Name: make(pgx.Identifier, 2)}
		err := row.Scan(&p.Name[0], &p.Name[1], &p.oid, &p.State, &p.Lower, &p.Upper)
		return p, err
	})
	if err != nil {
		return nil, t.explain("list", err)
	}
	return all, nil
}

// Again looks at a partition that a try to detach it may have changed.
func (t *Table) Again(ctx context.Context, conn *pgx.Conn, p Partition) (Partition, error) {
	all, err := t.List(ctx, conn)
	if err != nil {
		return p, err
	}
	i := slices.IndexFunc(all, func(other Partition) bool { return other.oid == p.oid })
	if i < 0 {
		return p, fmt.Errorf("list partitions of %s: %s is gone", t.Name.Sanitize(), p.Name.Sanitize())
	}
	return all[i], nil
}

// Make makes the partitions for now and the next seven periods that are missing, and returns
// their names. No insert waits for it.
func (t *Table) Make(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, "SELECT made::text FROM walpost.make_partitions($1::bigint::oid::regclass) made", t.oid)
	if err != nil {
		return nil, t.explain("make", err)
	}
	made, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, t.explain("make", err)
	}
	return made, nil
}

// detachTimeout is how long one try of an owner waits for each transaction that uses the table.
// No insert waits meanwhile. Who owns nothing calls a function, which has a shorter one.
const detachTimeout = "1s"

// Detach takes one try at it. With [ErrInUse] another may do, and the partition may be
// [Pending] by then. Once it is detached all transactions that have written to it have ended.
func (t *Table) Detach(ctx context.Context, conn *pgx.Conn, p Partition) error {
	if !t.owned {
		_, err := conn.Exec(ctx, "SELECT walpost.detach_partition($1::bigint::oid::regclass, $2::bigint::oid::regclass)", t.oid, p.oid)
		return t.explain("detach", err)
	}
	way := "CONCURRENTLY"
	if p.State == Pending {
		way = "FINALIZE"
	}
	root, name := t.Name.Sanitize(), p.Name.Sanitize()
	// The comment is set before, so that whatever comes in between it is found and dropped.
	const mark = `SELECT format('COMMENT ON TABLE %s IS %L', $1::text, format('Detached from %I.%I by walpost, which drops it', $2::text, $3::text))`
	comment := ""
	err := conn.QueryRow(ctx, mark, name, t.Name[0], t.Name[1]).Scan(&comment)
	for _, sql := range []string{
		"SET lock_timeout = '" + detachTimeout + "'", comment,
		fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s %s", root, name, way),
	} {
		if err == nil {
			_, err = conn.Exec(ctx, sql)
		}
	}
	if _, rerr := conn.Exec(ctx, "RESET lock_timeout"); err == nil {
		err = rerr
	}
	return t.explain("detach", err)
}

// Drop drops what is detached.
func (t *Table) Drop(ctx context.Context, conn *pgx.Conn, p Partition) error {
	_, err := conn.Exec(ctx, "SELECT walpost.drop_partition($1::bigint::oid::regclass, $2::bigint::oid::regclass)", t.oid, p.oid)
	return t.explain("drop", err)
}

// Until returns the end of the partitions that follow on each other from a moment on: the
// moment itself if there is none for it, nil if there is no end.
func Until(all []Partition, now time.Time) *time.Time {
	until := now
	for _, p := range all { // by their bounds
		if p.State != Attached || p.Lower != nil && p.Lower.After(until) {
			continue
		}
		if p.Upper == nil {
			return nil
		}
		if p.Upper.After(until) {
			until = *p.Upper
		}
	}
	return &until
}

// Later returns the moment that is some periods later.
func (t *Table) Later(now time.Time, periods int) time.Time {
	if t.Period == "week" {
		periods *= 7
	}
	return now.UTC().AddDate(0, 0, periods)
}

// explain says what would have to be done. It returns nil for nil.
func (t *Table) explain(verb string, err error) error {
	if err == nil {
		return nil
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case codeLockNotAvailable, codeDeadlock:
			return fmt.Errorf("%s partition of %s: %w: %s", verb, t.Name.Sanitize(), ErrInUse, pgErr.Message)
		case codeInsufficientPrivilege, codeUndefinedFunction, codeInvalidSchema:
			return cdc.Refuse(fmt.Sprintf("run walpost init --partitioned %s, and --role with the role that walpost runs as", t.Period), "%s partition of %s: %w", verb, t.Name.Sanitize(), err)
		}
	}
	return fmt.Errorf("%s partition of %s: %w", verb, t.Name.Sanitize(), err)
}
