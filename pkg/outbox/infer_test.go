package outbox

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
)

// What a schema cannot hold without loss is not expanded, and all else is there. What
// Debezium makes of it is compared in test/compat.
func TestInfer(t *testing.T) {
	tests := []struct{ doc, schema, want string }{
		{`{"a": [{"x": 1}, {"y": null, "x": 2}]}`, `"fields":[{"type":"int32","optional":true,"field":"x"},{"type":"bytes","optional":true,"field":"y"}],"optional":true,"name":"p.a"`, `{"a":[{"x":1,"y":null},{"x":2,"y":null}]}`},
		{`[[{"x": {"y": 1}}], []]`, `"optional":true,"name":"x","field":"x"`, `[[{"x":{"y":1}}],[]]`},
		{`{"a": [null, [], ["x"]]}`, `"items":{"type":"array","items":{"type":"string"`, `{"a":[null,[],["x"]]}`},
		{`{"a": 0.1234567890123456789}`, `"type":"double"`, `{"a":0.1234567890123456789}`},
		{` {"a": 1}`, "", ""},
		{`{"a": 1} x`, "", ""},
		{`"x"`, "", ""},
		{`{"": 1}`, "", ""},
		{`{"a": 1, "\u0061": 2}`, "", ""},
		{`{"a": [{"x": 1}, {"x": "one"}]}`, "", ""},
		{`{"a": [1, 2.5]}`, "", ""},
		{`{"a": [1, 3000000000]}`, "", ""},
		{`{"a": 9223372036854775808}`, "", ""},
		{`{"a": 1e400}`, "", ""},
	}
	for _, tt := range tests {
		schema, doc, ok := infer([]byte(tt.doc), "p", "")
		if ok != (tt.want != "") || ok && (string(doc) != tt.want || !strings.Contains(string(schema), tt.schema)) {
			t.Errorf("infer(%s) =\n%s %s, %v, want\n%s %s", tt.doc, schema, doc, ok, tt.schema, tt.want)
		}
	}
}

// A small document does not become a large one.
func TestInferIsBounded(t *testing.T) {
	var apart strings.Builder
	for i := range 5000 {
		apart.WriteString(`,{"field` + strings.Repeat("x", i%7) + string(rune(0x4e00+i)) + `":1}`)
	}
	const deep = 9000
	for name, doc := range map[string]string{
		"fields": "[" + apart.String()[1:] + "]", "depth": strings.Repeat(`{"abc":`, deep) + "1" + strings.Repeat("}", deep),
	} {
		if schema, got, ok := infer([]byte(doc), "payload", ""); ok {
			t.Errorf("%s: %d bytes became %d, and %d of schema", name, len(doc), len(got), len(schema))
		}
	}
}

func FuzzInfer(f *testing.F) {
	f.Add([]byte(`{"a": [{"b": null}, {"c": "\ud800\u0041"}], "d": -1.50e3}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		schema, doc, ok := infer(text, "payload", "payload")
		if ok && (!json.Valid(schema) || !json.Valid(doc)) {
			t.Errorf("%q became %q with %q", text, doc, schema)
		}
	})
}

// Text in binary is expanded as jsonb is, whose binary form has a byte in front.
func TestExpandBinaryText(t *testing.T) {
	for _, f := range []Format{FormatJSON, FormatJSONSchema} {
		cfg := Config{ValueFormat: f, ExpandJSON: true}
		plain := show(route(t, cfg, event(cellText("payload", pgtype.TextOID, `{"a": 1}`))))
		if !strings.Contains(plain, `{\"a\":1}`) {
			t.Errorf("%s: not expanded: %s", f, plain)
		}
		if got := show(route(t, cfg, event(cellBinary("payload", pgtype.TextOID, []byte(`{"a": 1}`)...)))); got != plain {
			t.Errorf("%s: text in binary is\n%s, want\n%s", f, got, plain)
		}
		if got := show(route(t, cfg, event(cellBinary("payload", pgtype.JSONBOID, []byte("\x01{\"a\": 1}")...)))); !strings.Contains(got, `{\"a\":1}`) {
			t.Errorf("%s: jsonb in binary is %s", f, got)
		}
	}
}

// A numeric that is none is a word in a header, where Debezium loses it.
func TestNaNInHeader(t *testing.T) {
	for value, want := range map[string]string{"NaN": "NaN", "-Infinity": "-Infinity", "1.5": `{"scale":1,"value":"Dw=="}`} {
		rec := route(t, Config{Place: []string{"v:header"}}, event(cellText("v", pgtype.NumericOID, value)))
		if got := string(rec.Headers[1].Value); got != want {
			t.Errorf("%s is printed as %q, want %q", value, got, want)
		}
	}
	rec := route(t, Config{Place: []string{"v:header"}}, event(cellText("v", pgtype.NumericArrayOID, "{NaN,1.5}")))
	if got, want := string(rec.Headers[1].Value), `["NaN",{"scale":1,"value":"Dw=="}]`; got != want {
		t.Errorf("an array is printed as %s, want %s", got, want)
	}
}
