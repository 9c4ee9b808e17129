package compat

import "strings"

// expanding is a setup whose payloads are expanded.
func expanding(name, format, typ string, more ...string) setup {
	return setup{
		name: name, columns: strings.Replace(usual, "jsonb", typ, 1),
		debezium: merged(converter("key", "json"), converter("value", format), options(append([]string{"table.expand.json.payload", "true"}, more...)...)),
		walpost:  []string{"OUTBOX_KEY_FORMAT=json", "OUTBOX_VALUE_FORMAT=" + format, "OUTBOX_EXPAND_JSON=true"},
	}
}

// expanded are payloads that are expanded, with and without schemas, and in an envelope.
func expanded() []setup {
	keep := []string{"table.json.payload.null.behavior", "optional_bytes"}
	plain := expanding("expanded json", "json", "jsonb", keep...)
	plain.subset = true
	for name, doc := range map[string]string{
		"object": `{"a": 1, "b": "x", "c": true, "d": 1.5, "e": {"f": [1, 2]}}`, "nulls": `{"a": null, "b": 1}`, "empty object": `{}`,
		"large integer": `{"a": 9223372036854775807}`, "decimals": `{"a": 1.50, "b": 0.1, "c": 100.0}`, "text": `"x"`, "number": `1`,
		"unicode": `{"😀": "𝄞 ß"}`, "array of objects": `{"a": [{"x": 1}, {"x": 2}]}`, "array of text": `{"a": ["x", "y"]}`,
	} {
		plain.rows = append(plain.rows, row{name: name, values: map[string]string{"payload": "'" + doc + "'"}})
	}
	sortRows(plain.rows)

	schemas := expanding("expanded json-schema", "json-schema", "jsonb", keep...)
	schemas.subset = true
	schemas.rows = append(append(schemas.rows, plain.rows...), row{name: "payload NULL", values: map[string]string{"payload": "NULL"}})
	for _, doc := range []string{
		`{"a": {"b": {"c": [{"d": {"e": 1}}]}}}`, `{"a": [[1, 2], [3]]}`, `{"a": [[{"x": {"y": 1}}]]}`, `{"a": [null, 1]}`, `{"a": [null, null]}`, `{"a": [1, "x"]}`,
		`{"a": [1, 2.5]}`, `{"a": [1, 3000000000]}`, `{"a": 3000000000, "b": -2147483648, "c": 2147483648}`, `{"a b": {"c.d": {"é\"": 1}}}`, `{" ": {"a": {"b": 1}}}`,
		`{"a": [{"x": 1}, null, {"x": 2}]}`, `{"": 1}`, `null`, `true`, `{"a": [{"x": null}, {"x": null}]}`,
	} {
		schemas.rows = append(schemas.rows, row{name: doc, values: map[string]string{"payload": "'" + doc + "'"}})
	}
	text := expanding("expanded text json-schema", "json-schema", "text", keep...)
	for _, doc := range []string{`{"b": 1, "a": {"d": "\u00e9\u0041", "c": 1e3}}`, `plain`, ``, ` {"a": 1}`, "[", `{"a": -0, "b": -0.0}`} {
		text.rows = append(text.rows, row{name: doc, values: map[string]string{"payload": "'" + doc + "'"}})
	}
	named := expanding("expanded column json-schema", "json-schema", "jsonb", append(keep, "table.field.event.payload", "body")...)
	named.columns += ", body jsonb"
	named.walpost = append(named.walpost, "OUTBOX_PAYLOAD=body")
	named.rows = []row{{name: "object", values: map[string]string{"body": `'{"a": {"b": 1}}'`}}}
	all := []setup{plain, schemas, text, named}
	for _, f := range []string{"json", "json-schema"} {
		s := expanding("expanded envelope "+f, f, "jsonb", append(keep, "table.fields.additional.placement", "type:envelope")...)
		s.walpost = append(s.walpost, "OUTBOX_PLACE=type:envelope")
		if s.rows = plain.rows; f == "json-schema" {
			s.rows = schemas.rows
		}
		all = append(all, s)
	}
	return all
}

// expandedDifferently are documents of which Debezium leaves something out, or makes
// something up.
func expandedDifferently() (all []setup) {
	documents := []struct{ doc, plain, schemas string }{ // and the differences
		{`{"a": 1}`, "", ""},
		{`{"a": [], "b": 1}`, expandEmpty, expandEmpty},
		{`[]`, expandEmpty, expandEmpty},
		{`{"a": [[], [1]]}`, expandMixed, expandEmpty},
		{`{"a": [1, "x"]}`, expandMixed, ""},
		{`{"a": [1, 2.5]}`, expandMixed, ""},
		{`{"a": 1} trailing`, expandTrailing, expandTrailing},
		{`{"a": 1}{"b": 2}`, expandTrailing, expandTrailing},
		{`{"a": 1, "b": 2, "a": 3}`, expandDuplicate, expandDuplicate},
		{`{"a": [{"sku": "A", "qty": 1}, {"sku": "B"}]}`, expandInvented, expandInvented},
		{`{"a": [[{"x": 1}], [{"y": 2}]]}`, expandLost, expandLost},
		{`{"a": 0.1234567890123456789}`, expandNumber, expandNumber},
		{`{"a": 1e400}`, expandNumber, expandNumber},
		{`{"": 1}`, expandName, ""},
	}
	for _, f := range []string{"json", "json-schema"} {
		s := expanding("expanded differently "+f, f, "text", "table.json.payload.null.behavior", "optional_bytes")
		for _, d := range documents {
			differs := d.plain
			if f == "json-schema" {
				differs = d.schemas
			}
			s.rows = append(s.rows, row{name: d.doc, values: map[string]string{"payload": "'" + d.doc + "'"}, differs: differs})
		}
		without := expanding("expanded without nulls "+f, f, "text")
		without.rows = []row{
			{name: "field", values: map[string]string{"payload": `'{"a": null, "b": 1}'`}, differs: expandNull},
			{name: "in an array", values: map[string]string{"payload": `'{"a": [null]}'`}, differs: expandNull},
		}
		all = append(all, s, without)
	}
	return all
}
