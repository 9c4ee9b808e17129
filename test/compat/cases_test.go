package compat

import (
	"fmt"
	"slices"
	"strings"
)

// setup is a table, and how Debezium and walpost are to publish it.
type setup struct {
	name     string
	columns  string            // of the table beside id, in SQL
	debezium map[string]string // properties of the connector
	walpost  []string          // settings as NAME=value, without their prefix
	rows     []row
	subset   bool   // part of what CI compares live
	publish  string // what the publication has; "" for inserts
}

// row is one event. What it leaves out is as in defaults.
type row struct {
	name    string
	values  map[string]string // SQL expressions by column
	differs string            // the name of an accepted difference, or ""

	sql         string // a statement with $table and $id, and no row that is inserted
	unpublished bool   // by walpost
}

// published is how often walpost publishes the row.
func (r row) published() int {
	if r.unpublished {
		return 0
	}
	return 1
}

// The columns of the usual table, and what an event has in them.
const usual = "aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb"

var defaults = map[string]string{
	"aggregatetype": "'order'", "aggregateid": "'key-' || $1", "type": "'created'", "payload": `'{"n": 1}'`,
}

// The converters of Debezium by format, as properties with the prefix key. or value.
func converter(side, format string) map[string]string {
	name := side + ".converter"
	switch format {
	case "json":
		return map[string]string{name: "org.apache.kafka.connect.json.JsonConverter", name + ".schemas.enable": "false"}
	case "json-schema":
		return map[string]string{name: "org.apache.kafka.connect.json.JsonConverter", name + ".schemas.enable": "true"}
	case "binary":
		return map[string]string{name: "io.debezium.converters.BinaryDataConverter"}
	}
	return map[string]string{name: "org.apache.kafka.connect.storage.StringConverter"}
}

func options(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m["transforms.outbox."+kv[i]] = kv[i+1]
	}
	return m
}

func merged(maps ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range maps {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

// texts are payloads and keys that are awkward, as SQL.
var texts = []struct{ name, sql string }{
	{"plain", `'{"n": 1}'`},
	{"escapes", `E'{"a": "\\\\ \\" \\n \\t \\b \\f \\r \\/ \\u001f \\u007f \\u0085 \\u2028"}'`},
	{"beyond the BMP", `'{"😀": "𝄞 ß 漢 \u00e9"}'`},
	{"html", `'{"a": "<b>&amp;</b>"}'`},
	{"numbers", `'{"a": [1, -1, 0, 9223372036854775807]}'`},
	{"null", `'null'`},
	{"string", `'"text"'`},
	{"number", `'1'`},
	{"array", `'[1, 2]'`},
	{"nested", `'{"a": {"b": {"c": [{"d": 1}]}}}'`},
	{"huge", `('"' || repeat('x', 20000) || '"')`},
}

// payloads are rows with each of the texts, cast to the column's type.
func payloads(typ string) (rows []row) {
	for _, t := range texts {
		rows = append(rows, row{name: "payload " + t.name, values: map[string]string{"payload": t.sql + "::" + typ}})
	}
	return append(rows, row{name: "payload NULL", values: map[string]string{"payload": "NULL"}})
}

// keys are rows with awkward keys.
func keys() (rows []row) {
	for name, sql := range map[string]string{
		"empty": "''", "blank": "'  '", "non-ASCII": "'ß 漢'", "beyond the BMP": "'😀𝄞'", "control": `E'\x01\t\n\x1f\x7f'`,
		"quotes": `'"\/'''`, "long": "repeat('k', 5000)", "uuid": "'0123abcd-4567-89ab-cdef-fedcba987654'",
	} {
		rows = append(rows, row{name: "key " + name, values: map[string]string{"aggregateid": sql}})
	}
	sortRows(rows)
	return rows
}

// formats are the usual table in each format.
func formats() (all []setup) {
	for _, f := range []string{"raw", "json", "json-schema"} {
		for _, typ := range []string{"jsonb", "text"} {
			rows := payloads(typ)
			if typ == "text" {
				rows = append(rows, row{name: "payload empty", values: map[string]string{"payload": "''"}}, row{name: "payload blank", values: map[string]string{"payload": "' '"}},
					row{name: "payload not JSON", values: map[string]string{"payload": "E'plain \\x01 text'"}})
			}
			if typ == "jsonb" {
				rows = append(rows, keys()...)
			}
			all = append(all, setup{
				name: f + " " + typ, columns: "aggregatetype text NOT NULL, aggregateid text NOT NULL, type text, payload " + typ,
				debezium: merged(converter("key", f), converter("value", f), options("table.fields.additional.placement", "type:header:eventType")),
				walpost:  []string{"OUTBOX_KEY_FORMAT=" + f, "OUTBOX_VALUE_FORMAT=" + f, "OUTBOX_PLACE=type:header:eventType"},
				rows:     rows, subset: typ == "jsonb",
			})
		}
	}
	return all
}

// typed are values of all types that are placed, with the name of a difference if there is
// one.
var typed = []struct{ typ, sql, differs string }{
	{"text", "'a \"b\" \\ ß'", ""},
	{"text", "''", ""},
	{"varchar(10)", "'abc'", ""},
	{"char(5)", "'ab'", ""},
	{"uuid", "'0123ABCD-4567-89ab-cdef-FEDCBA987654'", ""},
	{"json", `' {"b" : 1}'`, ""},
	{"jsonb", `'{"b" : 1}'`, ""},
	{"xml", "'<a>ß</a>'", ""},
	{"bool", "true", ""},
	{"bool", "false", ""},
	{"int2", "-32768", ""},
	{"int4", "2147483647", ""},
	{"int8", "-9223372036854775808", ""},
	{"oid", "4294967295", ""},
	{"float4", "16777216", ""},
	{"float4", "1.5", ""},
	{"float4", "0.1", ""},
	{"float4", "'NaN'", ""},
	{"float4", "'Infinity'", ""},
	{"float8", "0.0000001", ""},
	{"float8", "12345678.5", ""},
	{"float8", "100", ""},
	{"float8", "'4.9E-324'", ""},
	{"float8", "'-0'", ""},
	{"float8", "0.001", ""},
	{"float8", "1e7", ""},
	{"float8", "'-Infinity'", ""},
	{"float8", "1.7976931348623157e308", ""},
	{"numeric(12,4)", "1.5", ""},
	{"numeric(12,4)", "-12345678.9", ""},
	{"numeric(12,2)", "12345.67", ""},
	{"numeric(12,2)", "0", ""},
	{"numeric(12,2)", "-1.28", ""},
	{"numeric", "1.5", ""},
	{"numeric", "-128", ""},
	{"numeric", "123456789012345678901234567890.5", ""},
	{"numeric", "0.00", ""},
	{"money", "12.34", ""},
	{"money", "-1234.5", ""},
	{"date", "'2024-02-29'", ""},
	{"date", "'1969-12-31'", ""},
	{"time", "'12:34:56.789012'", ""},
	{"time", "'00:00'", ""},
	{"time(3)", "'12:34:56.789'", ""},
	{"time(0)", "'23:59:59'", ""},
	{"timetz", "'07:04:56.789012+00'", ""},
	{"timetz", "'07:59:59.5Z'", ""},
	{"timetz", "'01:00:00+05:30'", ""},
	{"timestamp", "'2024-02-29 12:36:36.789012'", ""},
	{"timestamp(3)", "'2024-02-29 12:36:36.789'", ""},
	{"timestamp(0)", "'1969-12-31 23:59:59'", ""},
	{"timestamp", "'infinity'", ""},
	{"timestamptz", "'2024-02-29 07:04:56.789012Z'", ""},
	{"timestamptz(3)", "'2024-02-29 07:04:56.789Z'", ""},
	{"timestamptz(0)", "'2024-02-29 07:04:56Z'", ""},
	{"interval", "'1 day 02:03:04.5'", ""},
	{"interval", "'1 year 2 mons 3 days'", ""},
	{"interval", "'-1 day +02:03:00'", ""},
	{"interval", "'0'", ""},
	{"interval", "'-00:00:01.5'", ""},
	{"bytea", `'\x00ff7f'`, ""},
	{"bytea", "''", ""},
	{"bit(1)", "B'1'", ""},
	{"bit(8)", "B'00000000'", ""},
	{"bit(8)", "B'10000001'", ""},
	{"bit(12)", "B'100000000001'", ""},
	{"int4[]", "'{1,2,NULL}'", ""},
	{"int4[]", "'{}'", ""},
	{"text[]", `'{"a b","c\"d",NULL}'`, ""},
	{"bool[]", "'{t,f}'", ""},
	{"numeric(5,2)[]", "'{1.50,2.00,NULL}'", ""},
	{"uuid[]", "'{0123abcd-4567-89ab-cdef-fedcba987654}'", ""},
	{"jsonb[]", `array['{"a": 1}'::jsonb]`, ""},
	{"float8[]", "'{1.5,100}'", ""},
	{"inet", "'10.0.0.1'", ""},
	{"cidr", "'10.0.0.0/8'", ""},
	{"macaddr", "'08:00:2b:01:02:03'", ""},
	{"int4range", "'[1,5)'", ""},
	{"tsrange", `'["2024-01-01 00:00:00","2024-01-02 00:00:00")'`, ""},
	{"mood", "'happy day'", ""},
	{"point", "'(1.5,-2)'", ""},
	{"point", "'(1e20,-0.001)'", ""},
}

// typedSetup places every type in one place: header or envelope.
func typedSetup(place, format string, subset bool) setup {
	s := setup{name: place + " of all types " + format, columns: usual, subset: subset}
	columns, placement := map[string]string{}, "type:"+place+":eventType"
	for _, t := range typed {
		name, ok := columns[t.typ]
		if !ok {
			name = fmt.Sprintf("c%d", len(columns))
			columns[t.typ] = name
			s.columns += ", " + name + " " + t.typ
			placement += "," + name + ":" + place
		}
		s.rows = append(s.rows, row{name: t.typ + " " + t.sql, values: map[string]string{name: "(" + t.sql + ")::" + t.typ}, differs: t.differs})
	}
	s.debezium = merged(converter("key", "raw"), converter("value", format), options("table.fields.additional.placement", placement))
	s.walpost = []string{"OUTBOX_VALUE_FORMAT=" + format, "OUTBOX_PLACE=" + placement}
	return s
}

// keyTypes are keys of other types than text.
func keyTypes() (all []setup) {
	for typ, values := range map[string][]string{
		"uuid": {"'0123abcd-4567-89ab-cdef-fedcba987654'"}, "int4": {"1", "-5", "2147483647"}, "int8": {"9223372036854775807"},
		"varchar(20)": {"'k'"}, "char(8)": {"'k'"},
	} {
		for _, f := range []string{"raw", "json", "json-schema"} {
			s := setup{
				name: "key " + typ + " " + f, columns: "aggregatetype text NOT NULL, aggregateid " + typ + " NOT NULL, type text, payload text",
				debezium: merged(converter("key", f), converter("value", "raw")), walpost: []string{"OUTBOX_KEY_FORMAT=" + f},
			}
			for _, v := range values {
				s.rows = append(s.rows, row{name: v, values: map[string]string{"aggregateid": v + "::" + typ}})
			}
			all = append(all, s)
		}
	}
	return all
}

// topicSetups are routes and regular expressions.
func topicSetups() (all []setup) {
	for _, t := range []struct{ name, regex, replacement string }{
		{"default", "(?<routedByValue>.*)", "out.${routedByValue}"},
		{"groups", "(o)(r)(d)er(-line)?", "g.$1$2.$3$4.$11"},
		{"lazy", "(?<routedByValue>.*?)", "evt.${routedByValue}.v1"},
		{"alternatives", "order|order-line", "T"},
		{"no match", "x.*", "never"},
		{"case", "(?i)ORDER(.*)", "c$1"},
	} {
		s := setup{
			name: "topic " + t.name, columns: usual,
			debezium: merged(converter("key", "raw"), converter("value", "raw"), options("route.topic.regex", t.regex, "route.topic.replacement", t.replacement)),
			walpost:  []string{"OUTBOX_ROUTE_REGEX=" + t.regex, "OUTBOX_TOPIC=" + t.replacement},
		}
		for _, route := range []string{"order", "order-line", "ORDER", "customer"} {
			s.rows = append(s.rows, row{name: route, values: map[string]string{"aggregatetype": "'" + route + "'"}})
		}
		all = append(all, s)
	}
	return all
}

// others are what has a setup of its own.
func others() []setup {
	raw := merged(converter("key", "raw"), converter("value", "raw"))
	tombstones := []row{
		{name: "NULL", values: map[string]string{"payload": "NULL"}},
		{name: "empty", values: map[string]string{"payload": "''"}},
		{name: "blank", values: map[string]string{"payload": `E' \t\n'`}},
		{name: "control", values: map[string]string{"payload": `E'\x01\x1f'`}},
		{name: "no-break space", values: map[string]string{"payload": `U&'\00a0'`}},
		{name: "ideographic space", values: map[string]string{"payload": `U&'\3000'`}},
		{name: "zero width", values: map[string]string{"payload": `U&'\200b'`}},
		{name: "empty object", values: map[string]string{"payload": "'{}'"}},
		{name: "quotes", values: map[string]string{"payload": `'""'`}},
	}
	all := []setup{
		{
			name: "tombstones raw", columns: "aggregatetype text, aggregateid text, type text, payload text", rows: tombstones, subset: true,
			debezium: merged(raw, options("route.tombstone.on.empty.payload", "true")), walpost: []string{"OUTBOX_TOMBSTONE_ON_EMPTY=true"},
		},
		{
			name: "tombstones json", columns: "aggregatetype text, aggregateid text, type text, payload text", rows: tombstones,
			debezium: merged(converter("key", "json"), converter("value", "json"), options("route.tombstone.on.empty.payload", "true")),
			walpost:  []string{"OUTBOX_TOMBSTONE_ON_EMPTY=true", "OUTBOX_KEY_FORMAT=json", "OUTBOX_VALUE_FORMAT=json"},
		},
		{
			name: "binary", columns: "aggregatetype text NOT NULL, aggregateid text NOT NULL, type text, payload bytea", subset: true,
			debezium: merged(converter("key", "raw"), converter("value", "binary")), walpost: []string{"OUTBOX_VALUE_FORMAT=binary"},
			rows: []row{{name: "bytes", values: map[string]string{"payload": `'\x00ff7f'`}}, {name: "empty", values: map[string]string{"payload": `''`}}, {name: "NULL", values: map[string]string{"payload": "NULL"}}},
		},
		{
			name: "bytea json", columns: "aggregatetype text NOT NULL, aggregateid text NOT NULL, type text, payload bytea",
			debezium: merged(converter("key", "json"), converter("value", "json")), walpost: []string{"OUTBOX_KEY_FORMAT=json", "OUTBOX_VALUE_FORMAT=json"},
			rows: []row{{name: "bytes", values: map[string]string{"payload": `'\x00ff7f'`}}, {name: "empty", values: map[string]string{"payload": `''`}}, {name: "NULL", values: map[string]string{"payload": "NULL"}}},
		},
		{
			name: "partition", columns: usual + ", p int4", debezium: merged(raw, options("table.fields.additional.placement", "p:partition")), walpost: []string{"OUTBOX_PLACE=p:partition"},
			rows: []row{{name: "0", values: map[string]string{"p": "0"}}, {name: "4", values: map[string]string{"p": "4"}}, {name: "NULL", values: map[string]string{"p": "NULL"}}},
		},
		{
			name: "timestamp", columns: usual + ", at timestamp", debezium: merged(raw, options("table.field.event.timestamp", "at")), walpost: []string{"OUTBOX_TIMESTAMP=at"},
			rows: []row{{name: "micros", values: map[string]string{"at": "'2024-02-29 12:36:36.789612'"}}, {name: "epoch", values: map[string]string{"at": "'1970-01-01 00:00:00'"}}},
		},
	}
	rows := []row{{name: "all", values: nil}, {name: "payload NULL", values: map[string]string{"payload": "NULL"}}, {name: "type NULL", values: map[string]string{"type": "NULL"}}}
	for _, f := range []string{"json", "json-schema"} {
		all = append(all, setup{
			name: "envelope " + f, columns: "aggregatetype text NOT NULL, aggregateid text NOT NULL, type text, payload jsonb, version int4", rows: rows, subset: f == "json",
			debezium: merged(converter("key", f), converter("value", f), options("table.fields.additional.placement", "type:envelope:eventType,version:header,id:envelope")),
			walpost:  []string{"OUTBOX_KEY_FORMAT=" + f, "OUTBOX_VALUE_FORMAT=" + f, "OUTBOX_PLACE=type:envelope:eventType,version:header,id:envelope"},
		})
	}
	versioned := setup{
		name: "envelope with version", columns: "aggregatetype text NOT NULL, aggregateid text NOT NULL, type text, payload jsonb, version int4",
		debezium: merged(converter("key", "raw"), converter("value", "json-schema"), options("table.fields.additional.placement", "type:envelope", "table.field.event.schema.version", "version")),
		walpost:  []string{"OUTBOX_VALUE_FORMAT=json-schema", "OUTBOX_PLACE=type:envelope", "OUTBOX_SCHEMA_VERSION=version"},
		rows:     []row{{name: "1", values: map[string]string{"version": "1"}}, {name: "2", values: map[string]string{"version": "2"}}},
	}
	return append(append(all, versioned), expanded()...)
}

// sortRows brings rows of a map into an order: their numbers are in their keys.
func sortRows(rows []row) {
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.name, b.name) })
}

// setups are all there are.
func setups() []setup {
	all := formats()
	all = append(all, typedSetup("header", "raw", true), typedSetup("envelope", "json", false), typedSetup("envelope", "json-schema", false))
	all = append(all, keyTypes()...)
	all = append(all, topicSetups()...)
	return append(append(all, others()...), differences()...)
}
