package compat

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The names of the accepted differences, as the table in the documentation has them.
const (
	nullDefault     = "null-default"
	schemaDefault   = "schema-default"
	nullKey         = "null-key"
	byteaText       = "bytea-text"
	nameType        = "name-type"
	numericNaN      = "numeric-nan"
	headerNaN       = "header-nan"
	dateInfinity    = "date-infinity"
	timestampRange  = "timestamp-range"
	numericKey      = "numeric-key"
	schemaHistory   = "schema-history"
	keyUpdate       = "key-update"
	expandNull      = "expand-null"
	expandEmpty     = "expand-empty-array"
	expandMixed     = "expand-mixed-array"
	expandTrailing  = "expand-trailing"
	expandDuplicate = "expand-duplicate"
	expandInvented  = "expand-invented-null"
	expandLost      = "expand-lost-field"
	expandNumber    = "expand-number"
	expandName      = "expand-empty-name"
)

// differences are setups of which Debezium loses or invents something and goes on.
func differences() []setup {
	dead := []string{"DELIVERY_POISON=dead-letter"}
	raw, schemas := merged(converter("key", "raw"), converter("value", "raw")), merged(converter("key", "json-schema"), converter("value", "json-schema"))
	schemaFormats := []string{"OUTBOX_KEY_FORMAT=json-schema", "OUTBOX_VALUE_FORMAT=json-schema"}
	all := []setup{
		{
			name: "defaults", columns: "aggregatetype text NOT NULL, aggregateid text DEFAULT 'nobody', type text DEFAULT 'unknown', payload jsonb DEFAULT '{\"d\": true}'", subset: true,
			debezium: merged(raw, options("table.fields.additional.placement", "type:header")), walpost: append(dead, "OUTBOX_PLACE=type:header"),
			rows: []row{
				{name: "no NULL"},
				{name: "payload NULL", values: map[string]string{"payload": "NULL"}, differs: nullDefault},
				{name: "header NULL", values: map[string]string{"type": "NULL"}, differs: nullDefault},
				{name: "key NULL", values: map[string]string{"aggregateid": "NULL"}, differs: nullDefault},
			},
		},
		{
			name: "defaults json-schema", columns: "aggregatetype text NOT NULL, aggregateid text DEFAULT 'nobody', type text, payload text DEFAULT 'x'",
			debezium: schemas, walpost: schemaFormats, rows: []row{{name: "no NULL", differs: schemaDefault}},
		},
		{
			name: "key update", columns: usual, debezium: raw, publish: "insert, update", rows: []row{
				{name: "before"}, {name: "update", sql: "UPDATE $table SET id = $id WHERE aggregateid = 'key-0'", differs: keyUpdate, unpublished: true}, {name: "after"},
			},
		},
		{
			name: "numeric key", columns: "aggregatetype text, aggregateid numeric, type text, payload text", debezium: raw,
			rows: []row{{name: "1.5", values: map[string]string{"aggregateid": "1.5"}, differs: numericKey}},
		},
		{
			name: "two routes json-schema", columns: usual, debezium: merged(schemas, options("table.fields.additional.placement", "type:envelope")), walpost: append(schemaFormats, "OUTBOX_PLACE=type:envelope"),
			rows: []row{{name: "first"}, {name: "second", values: map[string]string{"aggregatetype": "'customer'"}, differs: schemaHistory}, {name: "third"}},
		},
	}
	for _, f := range []string{"raw", "json", "json-schema"} {
		all = append(all, setup{
			name: "NULL key " + f, columns: "aggregatetype text, aggregateid text, type text, payload text",
			debezium: merged(converter("key", f), converter("value", "raw")), walpost: append([]string{"OUTBOX_KEY_FORMAT=" + f}, dead...),
			rows: []row{{name: "NULL", values: map[string]string{"aggregateid": "NULL"}, differs: nullKey}},
		})
	}
	for _, column := range []string{"aggregateid", "payload"} {
		types := map[string]string{"aggregateid": "text", "payload": "text"}
		types[column] = "bytea"
		all = append(all, setup{
			name: "bytea raw " + column, columns: "aggregatetype text, aggregateid " + types["aggregateid"] + ", type text, payload " + types["payload"], debezium: raw,
			rows: []row{{name: "bytes", values: map[string]string{column: `'\x00ff7f'`}, differs: byteaText}},
		})
	}
	return append(append(all, lostValues("header", "raw"), lostValues("envelope", "json"), lostValues("envelope", "json-schema")), expandedDifferently()...)
}

// lostValues are placed values that Debezium changes.
func lostValues(place, format string) setup {
	placement := strings.ReplaceAll("n:$,n2:$,d:$,t:$,c:$,p:$,f:$", "$", place)
	notJSON := ""
	if place == "header" {
		notJSON = headerNaN
	}
	s := setup{
		name: place + " of lost values " + format, columns: usual + ", n numeric, n2 numeric(12,4), d date, t timestamp, c name, p point, f float8[]",
		debezium: merged(converter("key", "raw"), converter("value", format), options("table.fields.additional.placement", placement)),
		walpost:  []string{"OUTBOX_VALUE_FORMAT=" + format, "OUTBOX_PLACE=" + placement, "DELIVERY_POISON=dead-letter"},
	}
	for _, v := range []struct{ column, sql, differs string }{
		{"n", "NaN", numericNaN},
		{"n2", "NaN", numericNaN},
		{"n", "Infinity", numericNaN},
		{"d", "infinity", dateInfinity},
		{"d", "-infinity", dateInfinity},
		{"t", "294276-12-31 23:59:59.999999", timestampRange},
		{"c", "Na me", nameType},
		{"p", "(1e20,NaN)", notJSON},
		{"f", "{1.5,NaN}", notJSON},
	} {
		s.rows = append(s.rows, row{name: v.column + " " + v.sql, values: map[string]string{v.column: "'" + v.sql + "'"}, differs: v.differs})
	}
	return s
}

var tableRow = regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|.*\\| ([^|]+) \\|$")

// Each difference is in the documentation's table, and each that the table says is compared
// is one that some row has.
func TestDifferences(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "migrating-from-debezium.md"))
	must(t, err)
	_, section, ok := strings.Cut(string(text), "\n## What differs\n")
	if !ok {
		t.Fatal("the documentation has no section of what differs")
	}
	documented := map[string]bool{} // and compared
	for _, m := range tableRow.FindAllStringSubmatch(section, -1) {
		if _, twice := documented[m[1]]; twice {
			t.Errorf("%s is twice in the table", m[1])
		}
		documented[m[1]] = m[2] == "compared"
	}
	used := map[string]bool{}
	for _, s := range setups() {
		for _, r := range s.rows {
			if r.differs == "" {
				continue
			}
			used[r.differs] = true
			if !documented[r.differs] {
				t.Errorf("%s/%s differs by %s, which the table does not have as compared", s.name, r.name, r.differs)
			}
		}
	}
	for name, compared := range documented {
		if compared && !used[name] {
			t.Errorf("%s is compared by no row", name)
		}
	}
}
