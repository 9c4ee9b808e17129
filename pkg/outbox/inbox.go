package outbox

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// DefaultInbox is the table of the zero [Inbox].
const DefaultInbox = "public.inbox"

// InboxSQL makes the table of the zero [Inbox].
const InboxSQL = `CREATE TABLE IF NOT EXISTS public.inbox (
  consumer    text        NOT NULL,
  id          uuid        NOT NULL,
  received_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (consumer, id)
);
CREATE INDEX IF NOT EXISTS inbox_received_at ON public.inbox (received_at);
`

// Inbox tells a consumer which events it has handled already. Delivery is at
// least once: after a crash, a take-over or a replay an event comes again, with
// the same id in the header id ([HeaderID]); a replayed one also has the header
// walpost-replay ([HeaderReplay]). An id that is kept in the same transaction as
// the event's effect makes the effect happen once.
//
// A consumer that is to take part in a replay must forget the ids first, or use
// another Consumer name.
//
// The zero Inbox uses [DefaultInbox]. An Inbox is safe for use by several
// goroutines.
type Inbox struct {
	// Table is in the form that [ParseTable] reads, and of the shape of
	// InboxSQL. Defaults to public.inbox.
	Table string

	// Consumer separates consumers that share the table. Defaults to none,
	// which is a name like any other.
	Consumer string
}

// Seen records the event in the transaction and reports whether it had been
// recorded before. While another transaction that has recorded it is open, Seen
// waits for its end.
func (i Inbox) Seen(ctx context.Context, tx Execer, id uuid.UUID) (bool, error) {
	return i.seen(ctx, execPgx(tx), id)
}

// SeenSQL is Seen for database/sql.
func (i Inbox) SeenSQL(ctx context.Context, tx SQLExecer, id uuid.UUID) (bool, error) {
	return i.seen(ctx, execSQL(tx), id)
}

// Once calls fn unless the event was recorded before. It neither begins nor
// ends the transaction, in which fn must do its work; after an error it has to
// be rolled back.
func (i Inbox) Once(ctx context.Context, tx Execer, id uuid.UUID, fn func(context.Context) error) error {
	return i.once(ctx, execPgx(tx), id, fn)
}

// OnceSQL is Once for database/sql.
func (i Inbox) OnceSQL(ctx context.Context, tx SQLExecer, id uuid.UUID, fn func(context.Context) error) error {
	return i.once(ctx, execSQL(tx), id, fn)
}

// Purge deletes the consumer's ids that are older than age, and returns how
// many. An event that comes again after that is handled again: age must be more
// than the topic's retention, or than the oldest that is ever replayed.
func (i Inbox) Purge(ctx context.Context, db Execer, age time.Duration) (int64, error) {
	return i.purge(ctx, execPgx(db), age)
}

// PurgeSQL is Purge for database/sql.
func (i Inbox) PurgeSQL(ctx context.Context, db SQLExecer, age time.Duration) (int64, error) {
	return i.purge(ctx, execSQL(db), age)
}

func (i Inbox) once(ctx context.Context, run execFunc, id uuid.UUID, fn func(context.Context) error) error {
	seen, err := i.seen(ctx, run, id)
	if err != nil || seen {
		return err
	}
	return fn(ctx)
}

func (i Inbox) seen(ctx context.Context, run execFunc, id uuid.UUID) (bool, error) {
	table, err := i.table()
	if err != nil {
		return false, err
	}
	n, err := run(ctx, "INSERT INTO "+table+" (consumer, id) VALUES ($1, $2) ON CONFLICT DO NOTHING", i.Consumer, id.String())
	if err != nil {
		return false, fmt.Errorf("record event %s in inbox %s: %w", id, table, err)
	}
	return n == 0, nil
}

func (i Inbox) purge(ctx context.Context, run execFunc, age time.Duration) (int64, error) {
	table, err := i.table()
	if err != nil {
		return 0, err
	}
	n, err := run(ctx, "DELETE FROM "+table+" WHERE consumer = $1 AND received_at < now() - make_interval(secs => $2)",
		i.Consumer, age.Seconds())
	if err != nil {
		return 0, fmt.Errorf("purge inbox %s: %w", table, err)
	}
	return n, nil
}

func (i Inbox) table() (string, error) {
	table, err := ParseTable(cmp.Or(i.Table, DefaultInbox))
	return table.Sanitize(), err
}
