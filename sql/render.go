package sqlfiles

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
)

// variable is psql's :'name', which stands for the value as a string literal. The
// files use no other form, and neither form in a comment nor in a quoted text,
// where psql would leave it alone.
var variable = regexp.MustCompile(`:'([a-z_]+)'`)

// render does to text what psql does, as far as our files use it: lines that
// begin with a backslash are commands, of which \set gives a variable its default.
func render(file, text string, values map[string]string) (Step, error) {
	var (
		kept     []string
		defaults = map[string]string{}
	)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, `\`) {
			kept = append(kept, line)
			continue
		}
		if name, value, ok := parseSet(line); ok {
			defaults[name] = value
		}
	}
	sql, err := substitute(squeeze(strings.Join(kept, "")), values, defaults)
	if err != nil {
		return Step{}, fmt.Errorf("render %s: %w", file, err)
	}
	title, _, _ := strings.Cut(strings.TrimPrefix(sql, "-- "), "\n")
	return Step{File: file, Title: title, SQL: sql}, nil
}

// parseSet reads a line such as \set name 'value'.
func parseSet(line string) (name, value string, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), `\set `)
	if !ok {
		return "", "", false
	}
	name, value, ok = strings.Cut(rest, " ")
	return name, strings.Trim(value, "'"), ok
}

// squeeze closes the gap that the commands left.
func squeeze(text string) string { return strings.ReplaceAll(text, "\n\n\n", "\n\n") }

func substitute(text string, values, defaults map[string]string) (string, error) {
	var unknown error
	out := variable.ReplaceAllStringFunc(text, func(s string) string {
		name := s[2 : len(s)-1]
		value := cmp.Or(values[name], defaults[name])
		if value == "" {
			unknown = fmt.Errorf("variable %s has no value", name)
		}
		return literal(value)
	})
	return out, unknown
}

// literal quotes s the way psql does, which holds whatever
// standard_conforming_strings is set to.
func literal(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if !strings.Contains(s, `\`) {
		return quoted
	}
	return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
}
