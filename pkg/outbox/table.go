package outbox

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// maxIdentifier is the length in bytes to which Postgres cuts a longer name.
const maxIdentifier = 63

// Table names a table.
type Table struct{ Schema, Name string }

// ParseTable reads a name as SQL would: schema and table with a dot between
// them, or the table alone, which is then in the schema public. A part that is
// not in double quotes is folded to lower case; one with other characters than
// letters, digits, _ and $ needs the quotes.
func ParseTable(s string) (Table, error) {
	parts, err := parseIdentifiers(strings.TrimSpace(s))
	if err != nil {
		return Table{}, fmt.Errorf("parse table name %q: %w", s, err)
	}
	switch len(parts) {
	case 1:
		return Table{"public", parts[0]}, nil
	case 2:
		return Table{parts[0], parts[1]}, nil
	}
	return Table{}, fmt.Errorf("parse table name %q: want a schema and a table, got %d parts", s, len(parts))
}

// String returns the name as ParseTable reads it, with quotes where SQL needs
// them.
func (t Table) String() string { return quoteIdentifier(t.Schema) + "." + quoteIdentifier(t.Name) }

// Sanitize returns the name for use in a statement.
func (t Table) Sanitize() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

func parseIdentifiers(s string) ([]string, error) {
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return nil, errors.New("not valid UTF-8, or with a zero byte")
	}
	var parts []string
	for {
		part, rest, err := parseIdentifier(s)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
		if rest == "" {
			return parts, nil
		}
		if rest[0] != '.' {
			return nil, fmt.Errorf("unexpected %q", rest)
		}
		s = rest[1:]
	}
}

// parseIdentifier reads the identifier that s begins with.
func parseIdentifier(s string) (name, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		name, rest, err = parseQuoted(s[1:])
	} else {
		n := 0
		for n < len(s) && isIdentifierByte(s[n], n == 0) {
			n++
		}
		name, rest = foldASCII(s[:n]), s[n:]
	}
	switch {
	case err != nil:
		return "", "", err
	case name == "":
		return "", "", errors.New("a part is empty, or begins with a character that needs double quotes")
	case len(name) > maxIdentifier:
		return "", "", fmt.Errorf("%q is longer than the %d bytes that Postgres keeps", name, maxIdentifier)
	}
	return name, rest, nil
}

// parseQuoted reads up to the closing quote. A doubled quote stands for one.
func parseQuoted(s string) (name, rest string, err error) {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(s, `"`)
		if !ok {
			return "", "", errors.New("a double quote is not closed")
		}
		b.WriteString(before)
		if !strings.HasPrefix(after, `"`) {
			return b.String(), after, nil
		}
		b.WriteByte('"')
		s = after[1:]
	}
}

func isIdentifierByte(c byte, first bool) bool {
	switch {
	case c == '_', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c >= utf8.RuneSelf:
		return true
	}
	return !first && (c == '$' || '0' <= c && c <= '9')
}

// foldASCII lowers as Postgres does in a UTF-8 database: ASCII letters only.
func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func quoteIdentifier(s string) string {
	plain := s != "" && foldASCII(s) == s
	for i := range len(s) {
		plain = plain && isIdentifierByte(s[i], i == 0)
	}
	if plain {
		return s
	}
	return pgx.Identifier{s}.Sanitize()
}
