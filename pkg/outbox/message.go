package outbox

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/pkg/cdc"
)

// MessageRelation describes what pg_logical_emit_message writes under a prefix as a row of
// the columns that the router reads. Its name is the prefix.
func (r *Router) MessageRelation(prefix string) *cdc.Relation {
	s := &r.settings
	rel := &cdc.Relation{Schema: "message", Name: prefix}
	for _, name := range r.Columns() {
		c := cdc.Column{Name: name, Type: pgtype.TextOID, Modifier: -1}
		switch {
		case name == s.Payload && s.ValueFormat == FormatBinary:
			c.Type = pgtype.ByteaOID
		case name == s.Payload:
			c.Type = pgtype.JSONBOID
		case name == s.Timestamp:
			c.Type = pgtype.TimestamptzOID
		case name == s.SchemaVersion, s.isPartition(name):
			c.Type = pgtype.Int4OID
		}
		rel.Columns = append(rel.Columns, c)
	}
	return rel
}

func (s *settings) isPartition(column string) bool {
	for _, p := range s.places {
		if p.partition && p.column == column {
			return true
		}
	}
	return false
}

// messageLayout is the first byte of a message in the compact layout, which no JSON begins
// with. Behind it comes for each field its name and its value, both as a number of bytes and
// these; the value's number is one more, and 0 stands for NULL. Numbers are unsigned varints.
const messageLayout = 1

// MessageValues returns what reads messages into rows of rel: a JSON object whose fields are
// the columns, or the compact layout. A string is its text, NULL a null or a field that is
// not there, and anything else is the JSON as it is written. What is neither is a row with
// nothing in it, which is poison: the payload then is the content, so that a dead letter
// shows it.
//
// The function is for one goroutine.
func MessageValues(rel *cdc.Relation, payload string) func(content []byte, dst []cdc.Value) []cdc.Value {
	columns := make(map[string]int, len(rel.Columns))
	for i, c := range rel.Columns {
		columns[c.Name] = i
	}
	return func(content []byte, dst []cdc.Value) []cdc.Value {
		for range rel.Columns {
			dst = append(dst, cdc.Value{Format: cdc.Null})
		}
		set := func(name string, v cdc.Value) {
			if i, ok := columns[name]; ok {
				dst[i] = v
			}
		}
		read := readJSONMessage
		if len(content) > 0 && content[0] == messageLayout {
			read = readCompactMessage
		}
		if err := read(content, set); err != nil {
			for i := range dst {
				dst[i] = cdc.Value{Format: cdc.Null}
			}
			set(payload, cdc.Value{Format: cdc.Text, Data: content})
		}
		return dst
	}
}

func readJSONMessage(content []byte, set func(string, cdc.Value)) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(content, &fields); err != nil {
		return err
	}
	if fields == nil {
		return errors.New("not a JSON object")
	}
	for name, raw := range fields {
		switch {
		case string(raw) == "null":
		case raw[0] == '"':
			var s string
			if err := json.Unmarshal(raw, &s); err != nil {
				return err
			}
			set(name, cdc.Value{Format: cdc.Text, Data: []byte(s)})
		default:
			set(name, cdc.Value{Format: cdc.Text, Data: raw})
		}
	}
	return nil
}

var errLayout = errors.New("the compact layout is cut short")

func readCompactMessage(content []byte, set func(string, cdc.Value)) error {
	for rest := content[1:]; len(rest) > 0; {
		name, after, ok := cutCounted(rest, 0)
		if !ok {
			return errLayout
		}
		if len(after) > 0 && after[0] == 0 {
			rest = after[1:]
			continue // NULL
		}
		value, after, ok := cutCounted(after, 1)
		if !ok {
			return errLayout
		}
		set(string(name), cdc.Value{Format: cdc.Text, Data: value})
		rest = after
	}
	return nil
}

// cutCounted cuts off as many bytes as the number says, less some.
func cutCounted(b []byte, less uint64) (cut, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n < less || n-less > uint64(len(b)-size) {
		return nil, nil, false
	}
	end := size + int(n-less)
	return b[size:end], b[end:], true
}

// Emit writes the messages into WAL and into no table, in a transaction of pgx, and
// returns their ids: walpost publishes them with messages.prefix set to prefix. It is the
// same as Write else, and Columns must be text.
func (w *Writer) Emit(ctx context.Context, tx Execer, prefix string, messages ...Message) ([]uuid.UUID, error) {
	return w.emit(ctx, execPgx(tx), prefix, messages)
}

// EmitSQL is Emit for database/sql.
func (w *Writer) EmitSQL(ctx context.Context, tx SQLExecer, prefix string, messages ...Message) ([]uuid.UUID, error) {
	return w.emit(ctx, execSQL(tx), prefix, messages)
}

func (w *Writer) emit(ctx context.Context, run execFunc, prefix string, messages []Message) ([]uuid.UUID, error) {
	cfg := w.cfg.withDefaults()
	ids, err := assignIDs(messages)
	if err != nil {
		return nil, err
	}
	for i, m := range messages {
		content := []byte{messageLayout}
		add := func(name, value string) {
			content = append(binary.AppendUvarint(content, uint64(len(name))), name...)
			content = append(binary.AppendUvarint(content, uint64(len(value))+1), value...)
		}
		add(cfg.ID, ids[i].String())
		add(cfg.Key, m.Key)
		add(cfg.Route, m.Route)
		if m.Type != "" {
			add(cfg.Type, m.Type)
		}
		if m.Payload != nil {
			add(cfg.Payload, string(m.Payload))
		}
		for name, value := range m.Columns {
			text, ok := value.(string)
			if !ok {
				return nil, fmt.Errorf("emit: column %q of message %d is no text", name, i)
			}
			add(name, text)
		}
		if _, err := run(ctx, "SELECT pg_logical_emit_message(true, $1, $2::bytea)", prefix, content); err != nil {
			return nil, fmt.Errorf("emit: %w", err)
		}
	}
	return ids, nil
}
