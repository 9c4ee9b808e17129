package config

import (
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Table is a table's name, unquoted.
type Table struct{ Schema, Name string }

// String returns the name as SQL takes it.
func (t Table) String() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// listOf reads items that are separated by commas. A comma between double
// quotes separates nothing. No item may be there twice.
func listOf[T comparable](least int, item parser[T]) parser[[]T] {
	return parser[[]T]{kind: kindList, parse: func(s string) ([]T, error) {
		var list []T
		for _, text := range splitList(s) {
			v, err := item.parse(text)
			switch {
			case err != nil:
				return nil, err
			case slices.Contains(list, v):
				return invalid[[]T](strconv.Quote(text)+" is listed twice", "")
			}
			list = append(list, v)
		}
		if len(list) < least {
			return invalid[[]T]("is empty", "")
		}
		return list, nil
	}}
}

// splitList cuts a list at its commas, without the spaces around the items.
// Empty text is the empty list.
func splitList(s string) []string {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	var items []string
	quoted, start := false, 0
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			items = append(items, strings.TrimSpace(s[start:i]))
			start = i + 1
		}
	}
	return append(items, strings.TrimSpace(s[start:]))
}

const tableHint = `schema.table, as in public.outbox; quoted where SQL needs it, as in public."Outbox"`

// tableName reads a name as SQL does: what is not quoted is folded to lower case.
var tableName = parser[Table]{parse: func(s string) (Table, error) {
	schema, rest, ok := cutIdentifier(s)
	if !ok || !strings.HasPrefix(rest, ".") {
		return invalid[Table](strconv.Quote(s)+" is not a table with its schema", tableHint)
	}
	name, rest, ok := cutIdentifier(rest[1:])
	if !ok || rest != "" {
		return invalid[Table](strconv.Quote(s)+" is not a table with its schema", tableHint)
	}
	return Table{schema, name}, nil
}}

// cutIdentifier cuts the identifier that s begins with.
// https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
func cutIdentifier(s string) (name, rest string, ok bool) {
	if strings.HasPrefix(s, `"`) {
		name, rest, ok = cutQuoted(s[1:])
	} else {
		end := strings.IndexFunc(s, func(r rune) bool { return !identifierRune(r) })
		if end < 0 {
			end = len(s)
		}
		name, rest, ok = foldASCII(s[:end]), s[end:], end > 0 && strings.IndexByte("0123456789$", s[0]) < 0
	}
	return name, rest, ok && name != "" && len(name) <= maxName && !strings.ContainsRune(name, 0)
}

// cutQuoted cuts at the quote that ends s; two of them stand for one.
func cutQuoted(s string) (name, rest string, ok bool) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, `"`)
		if !found {
			return "", "", false
		}
		b.WriteString(before)
		if !strings.HasPrefix(after, `"`) {
			return b.String(), after, true
		}
		b.WriteByte('"')
		s = after[1:]
	}
}

func identifierRune(r rune) bool {
	return r == '_' || r == '$' || r >= 0x80 ||
		'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

// foldASCII is how Postgres folds in a UTF-8 database.
func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r - 'A' + 'a'
		}
		return r
	}, s)
}

const placeHint = "column:header[:alias], column:envelope[:alias] or column:partition"

// placement reads Debezium's syntax of table.fields.additional.placement.
var placement = parser[string]{parse: func(s string) (string, error) {
	column, to, _ := strings.Cut(s, ":")
	kind, alias, aliased := strings.Cut(to, ":")
	ok := column != "" && aliased == (alias != "") && !strings.Contains(alias, ":")
	switch strings.ToLower(kind) {
	case "header", "envelope":
	case "partition":
		ok = ok && !aliased
	default:
		ok = false
	}
	if !ok {
		return invalid[string](strconv.Quote(s)+" is not a placement", placeHint)
	}
	return s, nil
}}
