package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Message is an event to be written.
type Message struct {
	// ID is what consumers recognize the event by. Defaults to a new UUID of
	// version 7, which rises with time.
	ID uuid.UUID

	// Key is the aggregate's id: events of one key are delivered in the order
	// in which their transactions commit. Required.
	Key string

	// Route is the aggregate's type, which names the topic. Required.
	Route string

	// Type says what happened. The column is left to its default if no
	// message of the call has a type.
	Type string

	// Payload is the record's value: JSON for a column of type json or
	// jsonb. Nil is NULL, and a null value.
	Payload []byte

	// Columns holds values for further columns, by name, such as placed
	// headers. A column that only some messages of a call have is left to
	// its default in the others.
	Columns map[string]any
}

// WriterConfig names the table and its columns, as the catalog has them.
type WriterConfig struct {
	// Table is in the form that [ParseTable] reads. Defaults to
	// public.outbox.
	Table string

	// The columns. Default to id, aggregateid, aggregatetype, type and
	// payload.
	ID, Key, Route, Type, Payload string
}

func (c WriterConfig) withDefaults() WriterConfig {
	c.Table = cmp.Or(c.Table, DefaultTable)
	c.ID = cmp.Or(c.ID, DefaultID)
	c.Key = cmp.Or(c.Key, DefaultKey)
	c.Route = cmp.Or(c.Route, DefaultRoute)
	c.Type = cmp.Or(c.Type, DefaultType)
	c.Payload = cmp.Or(c.Payload, DefaultPayload)
	return c
}

// Writer inserts events into an outbox table, in a transaction of the caller's:
// they are published if and only if it commits. The zero Writer writes to
// public.outbox with the default columns. A Writer is safe for use by several
// goroutines.
type Writer struct {
	cfg   WriterConfig
	table Table
}

// NewWriter returns a Writer, or an error if the table's name is malformed.
func NewWriter(cfg WriterConfig) (*Writer, error) {
	cfg = cfg.withDefaults()
	table, err := ParseTable(cfg.Table)
	if err != nil {
		return nil, err
	}
	return &Writer{cfg, table}, nil
}

// Execer is a transaction of pgx, such as a [pgx.Tx].
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// SQLExecer is a transaction of database/sql, such as a [sql.Tx].
type SQLExecer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Write inserts the messages in their order and returns their ids. It neither
// begins nor ends the transaction, which has to be rolled back after an error.
// Messages without key or route are refused before anything is written. There
// is one statement for as many messages as its 65,535 parameters allow.
func (w *Writer) Write(ctx context.Context, tx Execer, messages ...Message) ([]uuid.UUID, error) {
	return w.write(ctx, execPgx(tx), messages)
}

// WriteSQL is Write for database/sql. The driver has to pass a byte slice on as
// the column's type wants it; pgx's driver does.
func (w *Writer) WriteSQL(ctx context.Context, tx SQLExecer, messages ...Message) ([]uuid.UUID, error) {
	return w.write(ctx, execSQL(tx), messages)
}

// execFunc runs a statement and returns how many rows it affected.
type execFunc func(ctx context.Context, query string, args ...any) (int64, error)

func execPgx(tx Execer) execFunc {
	return func(ctx context.Context, query string, args ...any) (int64, error) {
		tag, err := tx.Exec(ctx, query, args...)
		return tag.RowsAffected(), err
	}
}

func execSQL(tx SQLExecer) execFunc {
	return func(ctx context.Context, query string, args ...any) (int64, error) {
		result, err := tx.ExecContext(ctx, query, args...)
		if err != nil {
			return 0, err
		}
		return result.RowsAffected()
	}
}

// maxParameters is the protocol's limit for one statement.
const maxParameters = 65535

func (w *Writer) write(ctx context.Context, run execFunc, messages []Message) ([]uuid.UUID, error) {
	if len(messages) == 0 {
		return nil, nil
	}
	ids, err := assignIDs(messages)
	if err != nil {
		return nil, err
	}
	ins := w.insert(messages)
	size := maxParameters / len(ins.columns)
	if size == 0 {
		return nil, fmt.Errorf("write to outbox: %d columns are more than a statement takes", len(ins.columns))
	}
	for n := 0; n < len(messages); n += size {
		end := min(n+size, len(messages))
		query, args := ins.statement(ids[n:end], messages[n:end])
		if _, err := run(ctx, query, args...); err != nil {
			return nil, fmt.Errorf("write to outbox %s: %w", ins.table, err)
		}
	}
	return ids, nil
}

// assignIDs returns the messages' ids, and joins what is wrong with them.
func assignIDs(messages []Message) (ids []uuid.UUID, err error) {
	var errs []error
	for i, m := range messages {
		if m.Key == "" {
			errs = append(errs, fmt.Errorf("write to outbox: message %d has no key", i))
		}
		if m.Route == "" {
			errs = append(errs, fmt.Errorf("write to outbox: message %d has no route", i))
		}
		id := m.ID
		if id == uuid.Nil {
			if id, err = uuid.NewV7(); err != nil {
				return nil, fmt.Errorf("write to outbox: make an id: %w", err)
			}
		}
		ids = append(ids, id)
	}
	return ids, errors.Join(errs...)
}

// insert is the shape of a call's statements.
type insert struct {
	table   Table
	columns []string // id, key, route, payload, the type if withType, and extra
	extra   []string
	typed   bool
}

func (w *Writer) insert(messages []Message) insert {
	cfg, ins := w.cfg, insert{table: w.table}
	if ins.table == (Table{}) { // the zero Writer
		cfg, ins.table = WriterConfig{}.withDefaults(), Table{"public", "outbox"}
	}
	names := map[string]bool{}
	for _, m := range messages {
		ins.typed = ins.typed || m.Type != ""
		for name := range m.Columns {
			names[name] = true
		}
	}
	ins.extra = slices.Sorted(maps.Keys(names))
	ins.columns = []string{cfg.ID, cfg.Key, cfg.Route, cfg.Payload}
	if ins.typed {
		ins.columns = append(ins.columns, cfg.Type)
	}
	ins.columns = append(ins.columns, ins.extra...)
	return ins
}

// statement returns an INSERT of the messages and its parameters.
func (ins insert) statement(ids []uuid.UUID, messages []Message) (string, []any) {
	var b strings.Builder
	b.WriteString("INSERT INTO " + ins.table.Sanitize() + " (")
	for i, name := range ins.columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(pgx.Identifier{name}.Sanitize())
	}
	b.WriteString(") VALUES ")
	args := make([]any, 0, len(messages)*len(ins.columns))
	for i, m := range messages {
		if i > 0 {
			b.WriteString(", ")
		}
		args = ins.row(&b, args, ids[i], m)
	}
	return b.String(), args
}

// row appends a message's place holders to b and its parameters to args.
func (ins insert) row(b *strings.Builder, args []any, id uuid.UUID, m Message) []any {
	values := []any{id.String(), m.Key, m.Route, m.Payload}
	if ins.typed {
		values = append(values, m.Type)
	}
	for i := range ins.columns {
		if i == 0 {
			b.WriteByte('(')
		} else {
			b.WriteString(", ")
		}
		value, ok := any(nil), true
		if i < len(values) {
			value = values[i]
		} else {
			value, ok = m.Columns[ins.extra[i-len(values)]]
		}
		if !ok {
			b.WriteString("DEFAULT")
			continue
		}
		args = append(args, value)
		b.WriteString("$" + strconv.Itoa(len(args)))
	}
	b.WriteByte(')')
	return args
}
