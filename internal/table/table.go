// Package table reads rows of outbox tables by SQL, with the values that a stream would bring.
package table

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// settings are those that the stream decodes with. It goes by no policies either: a read that would
// is an error.
const settings = `SET client_encoding = 'UTF8'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1;
	SET bytea_output = 'hex'; SET timezone = 'UTC'; SET row_security = off;
	SELECT set_config(name, '0', false) FROM pg_settings
	WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout')`

// Prepare has the session print values as the stream does. It is of no use for anything else
// afterwards.
func Prepare(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.PgConn().Exec(ctx, settings).ReadAll(); err != nil {
		return fmt.Errorf("set up session: %w", err)
	}
	return nil
}

// Describe is the table as a stream of a publication would describe it, whose list of columns may
// leave some out (15 and later), and which may have stored generated ones (18 and later). Without a publication it has all.
func Describe(ctx context.Context, conn *pgx.Conn, name pgx.Identifier, publication string) (*cdc.Relation, error) {
	const query = `
		WITH RECURSIVE target AS (SELECT oid, relkind FROM pg_class WHERE oid = $2::regclass),` + pgsource.Tree + `,
		leaf AS (SELECT oid FROM tree WHERE relkind <> 'p'),` + pgsource.Published + `
		SELECT attname, atttypid::bigint, atttypmod, attnotnull, (SELECT array_agg(enumlabel::text ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = atttypid)
		FROM pg_attribute a WHERE attrelid = $2::regclass AND attnum > 0 AND NOT attisdropped
			AND (attgenerated = '' OR attgenerated = 's' AND EXISTS (SELECT FROM published))
			AND NOT EXISTS (SELECT FROM published p JOIN pg_attribute v ON v.attrelid = p.via AND v.attname = a.attname
				WHERE CASE WHEN p.columns IS NULL THEN a.attgenerated <> '' AND NOT p.generated ELSE NOT p.columns @> to_jsonb(v.attnum) END)
		ORDER BY attnum`
	rows, err := conn.Query(ctx, query, publication, name.Sanitize())
	if err != nil {
		return nil, fmt.Errorf("describe table %s: %w", name.Sanitize(), err)
	}
	rel := &cdc.Relation{Schema: name[0], Name: name[1]}
	rel.Columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c cdc.Column, err error) {
		var oid int64
		err = row.Scan(&c.Name, &oid, &c.Modifier, &c.NotNull, &c.Labels)
		c.Type = uint32(oid)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("describe table %s: %w", name.Sanitize(), err)
	}
	return rel, nil
}

// Columns are the relation's columns for a query.
func Columns(rel *cdc.Relation) string {
	columns := make([]string, len(rel.Columns))
	for i, c := range rel.Columns {
		columns[i] = pgx.Identifier{c.Name}.Sanitize()
	}
	return strings.Join(columns, ", ")
}

// Read runs a query in the simple protocol, whose values are text, and calls do with each row as
// it comes. The values are valid during the call only, and nil where they are NULL.
func Read(ctx context.Context, conn *pgconn.PgConn, query string, do func(values [][]byte) error) error {
	results := conn.Exec(ctx, query)
	var failed error
	for results.NextResult() {
		reader := results.ResultReader()
		for failed == nil && reader.NextRow() {
			failed = do(reader.Values())
		}
		if _, err := reader.Close(); failed == nil && err != nil {
			failed = err
		}
	}
	if err := results.Close(); failed == nil && err != nil {
		failed = err
	}
	return failed
}

// Set makes an event's values of a row's, which they share.
func Set(ev *cdc.Event, values [][]byte) {
	for i, v := range values {
		ev.Values[i] = cdc.Value{Format: cdc.Text, Data: v}
		if v == nil {
			ev.Values[i] = cdc.Value{Format: cdc.Null}
		}
	}
}
