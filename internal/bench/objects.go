package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/pkg/cdc"
	sqlfiles "github.com/walpost/walpost/sql"
)

// object is something that the bench makes on a server.
type object struct {
	kind, name string

	// make makes it, or is nil if walpost does.
	make func(context.Context) error

	// drop removes it. That it is not there is no error.
	drop func(context.Context) error

	// undo is what a person would type to remove it.
	undo string
}

// prepareTimeout bounds the making of an object. That of the slot waits until every
// transaction that is running and has written anything is over.
const prepareTimeout = 30 * time.Second

// objects returns all that belongs to n, in the order in which it is made.
func (b *bench) objects(n Names) []object {
	schema, publication := pgx.Identifier{n.Schema()}.Sanitize(), pgx.Identifier{n.Publication()}.Sanitize()
	all := []object{b.topic(n.Topic(), b.createTopic)}
	if b.cfg.ExactlyOnce {
		all = append(all, b.topic(n.Progress(), nil), object{
			kind: "checkpoint", name: n.Slot(), make: b.checkCheckpoints, drop: b.dropCheckpoint(n),
			undo: fmt.Sprintf("DELETE FROM walpost.checkpoint WHERE slot = '%s';", n.Slot()),
		})
	}
	return append(all,
		object{
			kind: "schema", name: n.Schema(), make: b.createTable, drop: b.execute("DROP SCHEMA IF EXISTS " + schema + " CASCADE"),
			undo: "DROP SCHEMA " + schema + " CASCADE;",
		},
		object{
			kind: "publication", name: n.Publication(), make: b.apply(sqlfiles.Publication), drop: b.execute("DROP PUBLICATION IF EXISTS " + publication),
			undo: "DROP PUBLICATION " + publication + ";",
		},
		object{
			kind: "slot", name: n.Slot(), make: b.apply(sqlfiles.Slot), drop: b.dropSlot(n),
			undo: fmt.Sprintf("SELECT pg_drop_replication_slot('%s');", n.Slot()),
		})
}

// prepare makes what is needed. All that it may have made is in b.made, also if it fails.
func (b *bench) prepare(ctx context.Context) error {
	for _, o := range b.objects(b.names) {
		b.made = append(b.made, o)
		if o.make == nil {
			continue
		}
		octx, cancel := context.WithTimeoutCause(ctx, prepareTimeout, errPrepareTimeout)
		err := o.make(octx)
		cause := context.Cause(octx)
		cancel()
		if err != nil {
			return fmt.Errorf("create %s %s: %w", o.kind, o.name, explain(o, err, cause))
		}
	}
	return nil
}

var errPrepareTimeout = fmt.Errorf("not done in %s", prepareTimeout)

// hints are what a role needs, by kind and SQLSTATE.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
var hints = map[string]string{
	"schema 42501":      "GRANT CREATE ON DATABASE to the role of postgres.dsn, or run the bench as another",                                      // insufficient_privilege
	"publication 42501": "GRANT CREATE ON DATABASE to the role of postgres.dsn, or run the bench as another",                                      // insufficient_privilege
	"slot 42501":        "ALTER ROLE of postgres.dsn REPLICATION (on a managed Postgres GRANT its replication role), or run the bench as another", // insufficient_privilege
	"slot 53400":        "raise max_replication_slots and restart Postgres, or drop a slot that nothing needs",                                    // configuration_limit_exceeded
	"slot 55000":        "ALTER SYSTEM SET wal_level = logical, and restart Postgres",                                                             // object_not_in_prerequisite_state
	"schema 25006":      "connect to the primary, or to a database that is not read-only",                                                         // read_only_sql_transaction
}

// explain adds what somebody would have to change. The cause is that of the object's
// own context.
func explain(o object, err, cause error) error {
	var (
		pgErr   *pgconn.PgError
		refused *cdc.RefusedError
	)
	switch {
	case errors.As(err, &refused):
		return err
	case errors.Is(cause, errPrepareTimeout) && o.kind == "slot":
		return cdc.Refuse("a slot waits for every transaction that has written something: SELECT * FROM pg_stat_activity WHERE backend_xid IS NOT NULL", "%w", cause)
	case cause != nil:
		return cause
	case errors.As(err, &pgErr) && hints[o.kind+" "+pgErr.Code] != "":
		return &cdc.RefusedError{Err: err, Hint: hints[o.kind+" "+pgErr.Code]}
	}
	return err
}

// createTable makes the schema and in it the table that walpost init would make. Others
// must not be sent what is written to it.
func (b *bench) createTable(ctx context.Context) error {
	const query = `SELECT coalesce(string_agg(quote_ident(pubname), ', '), '') FROM pg_publication WHERE puballtables AND pubinsert`
	var publications string
	if err := b.lock.QueryRow(ctx, query).Scan(&publications); err != nil {
		return err
	}
	if publications != "" {
		return cdc.Refuse("name another database of this server in postgres.dsn",
			"publication %s is FOR ALL TABLES, and its subscribers would be sent what the bench writes", publications)
	}
	if _, err := b.lock.Exec(ctx, "CREATE SCHEMA "+pgx.Identifier{b.names.Schema()}.Sanitize()); err != nil {
		return err
	}
	return b.apply(sqlfiles.Outbox)(ctx)
}

// apply applies one of the files that walpost init applies.
func (b *bench) apply(file string) func(context.Context) error {
	return func(ctx context.Context) error {
		steps, err := sqlfiles.Render(sqlfiles.Names{
			Tables:      []pgx.Identifier{{b.names.Schema(), b.names.Table()}},
			Publication: b.names.Publication(), Slot: b.names.Slot(), NoFailover: true,
		}, file)
		if err != nil {
			return err
		}
		_, err = b.lock.PgConn().Exec(ctx, steps[0].SQL).ReadAll()
		return err
	}
}

// checkCheckpoints looks whether the table is there that walpost leaves a row in, and
// whether that row could be removed.
func (b *bench) checkCheckpoints(ctx context.Context) error {
	const query = `
		SELECT has_schema_privilege(n.oid, 'USAGE'), has_table_privilege(c.oid, 'DELETE')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'walpost' AND c.relname = 'checkpoint'`
	var use, del bool
	err := b.lock.QueryRow(ctx, query).Scan(&use, &del)
	if errors.Is(err, pgx.ErrNoRows) {
		b.noCheckpoints = true
		return nil
	}
	if err != nil {
		return err
	}
	if !use || !del {
		return cdc.Refuse("GRANT USAGE ON SCHEMA walpost and SELECT, INSERT, UPDATE, DELETE ON walpost.checkpoint to the role of postgres.dsn, or run the bench as another",
			"with exactly-once walpost leaves a row in table walpost.checkpoint, and this role could not delete it")
	}
	return nil
}

// dropCheckpoint deletes the row, and with it the table if it was made for that row.
func (b *bench) dropCheckpoint(n Names) func(context.Context) error {
	return func(ctx context.Context) error {
		const undefined = "42P01"
		err := b.execute(fmt.Sprintf(deleteCheckpoint, n.Slot()))(ctx)
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && (pgErr.Code == undefined || pgErr.Code == "3F000") {
			return nil
		}
		if err != nil || !b.noCheckpoints {
			return err
		}
		return b.execute(dropCheckpoints)(ctx)
	}
}

// deleteCheckpoint deletes what walpost has noted for a slot.
const deleteCheckpoint = `
	DO $do$ BEGIN
		DELETE FROM walpost.checkpoint WHERE slot = '%[1]s';
		IF to_regclass('walpost.checkpoint_log') IS NOT NULL THEN
			DELETE FROM walpost.checkpoint_log WHERE slot = '%[1]s';
		END IF;
	END $do$`

// dropCheckpoints drops the tables if nobody has used or granted them since, and the schema
// if there is nothing else in it.
const dropCheckpoints = `
	DO $do$ BEGIN
		LOCK TABLE walpost.checkpoint IN ACCESS EXCLUSIVE MODE;
		IF EXISTS (SELECT FROM walpost.checkpoint) OR EXISTS (SELECT FROM walpost.checkpoint_log) OR EXISTS (SELECT FROM walpost.replay) OR EXISTS (SELECT FROM walpost.snapshot)
			OR EXISTS (SELECT FROM pg_class WHERE oid = 'walpost.checkpoint'::regclass AND relacl IS NOT NULL) THEN
			RETURN;
		END IF;
		DROP TABLE walpost.checkpoint, walpost.checkpoint_log, walpost.replay, walpost.snapshot;
		BEGIN
			DROP SCHEMA walpost;
		EXCEPTION WHEN dependent_objects_still_exist THEN NULL;
		END;
	END $do$`

// dropSlot drops the slot once its reader has gone, which it is told to.
func (b *bench) dropSlot(n Names) func(context.Context) error {
	const end = `SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = $1 AND active`
	return func(ctx context.Context) error {
		if err := b.execute(end, n.Slot())(ctx); err != nil {
			return err
		}
		return b.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", n.Slot())(ctx)
	}
}

// execute runs a statement on a session of its own: the one before may have ended with
// the context of what used it.
func (b *bench) execute(sql string, args ...any) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := b.cfg.Connect(ctx)
		if err != nil {
			return err
		}
		defer hangUp(conn)
		_, err = conn.Exec(ctx, sql, args...)
		return err
	}
}
