package outbox

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// everyPlane has a character of each plane of Unicode, and awkward ones.
func everyPlane() string {
	s := "\u0001\t\n'\"\\\u007f\u0085\u00a0ß\u2028\ufeff\uffff"
	for plane := range rune(17) {
		s += string(plane<<16 + 0xabcd)
	}
	return s
}

// The printed form of a value is the same whether it came as text or binary. A
// header is what Debezium's SimpleHeaderConverter writes; a key or a payload
// differs from it for bytea only.
func TestFormats(t *testing.T) {
	tests := []struct {
		typ    string
		value  string // an SQL expression
		header string
		raw    string // of a key and a payload, if it is another
	}{
		{"text", "''", "", ""},
		{"text", "$$" + everyPlane() + "$$", everyPlane(), ""},
		{"varchar(10)", "'a b'", "a b", ""},
		{"char(5)", "'ab'", "ab   ", ""},
		{"name", "'Na me'", "Na me", ""},
		{"xml", `'<?xml version="1.0" encoding="UTF-8"?><a>ß</a>'`, "<a>ß</a>", ""},
		{"xml", `'<?xml version="1.0" standalone="yes"?><a/>'`, `<?xml version="1.0" standalone="yes"?><a/>`, ""},
		{"json", `' {"b" : 1,"a":[ ] }'`, ` {"b" : 1,"a":[ ] }`, ""},
		{"jsonb", `'{"b" : 123456789012345678901234567890,"a":[1.50]}'`, `{"a": [1.50], "b": 123456789012345678901234567890}`, ""},
		{"jsonb", "'null'", "null", ""},
		{"jsonb", `'"\u00df😀\u2028"'`, "\"ß😀\u2028\"", ""},
		{"bool", "true", "true", ""},
		{"bool", "false", "false", ""},
		{"int2", "-32768", "-32768", ""},
		{"int2", "32767", "32767", ""},
		{"int4", "-2147483648", "-2147483648", ""},
		{"int4", "0", "0", ""},
		{"int8", "-9223372036854775808", "-9223372036854775808", ""},
		{"int8", "9223372036854775807", "9223372036854775807", ""},
		{"oid", "4294967295", "4294967295", ""},
		{"uuid", "'0123ABCD-4567-89ab-cdef-FEDCBA987654'", "0123abcd-4567-89ab-cdef-fedcba987654", ""},
		{"bytea", "''", "", ""},
		{"bytea", `'\x00ff7f5c27'`, "AP9/XCc=", "\x00\xff\x7f\x5c\x27"},
		{"date", "'2024-02-29'", "19782", ""},
		{"date", "'1970-01-01'", "0", ""},
		{"date", "'1969-12-31'", "-1", ""},
		{"date", "'4713-01-01 BC'", "-2440550", ""},
		{"date", "'5874897-12-31'", "2145042905", ""},
		{"date", "'infinity'", "infinity", ""},
		{"date", "'-infinity'", "-infinity", ""},
		{"timestamp", "'2024-02-29 12:36:36.789012'", "1709210196789012", ""},
		{"timestamp", "'1999-12-31 23:59:59.999999'", "946684799999999", ""},
		{"timestamp", "'1969-12-31 23:59:59.999999'", "-1", ""},
		{"timestamp", "'4713-11-24 00:00:00 BC'", "-210835180800000000", ""},
		{"timestamp", "'294246-12-31 23:59:59.999999'", "9223371244799999999", ""},
		{"timestamp", "'294276-12-31 23:59:59.999999'", "9224318015999999999", ""},
		{"timestamp", "'infinity'", "9223372036825200000", ""},
		{"timestamp", "'-infinity'", "-9223372036832400000", ""},
		{"timestamp(0)", "'2024-02-29 12:36:36.789012'", "1709210197000", ""},
		{"timestamp(1)", "'2024-02-29 12:36:36.789012'", "1709210196800", ""},
		{"timestamp(3)", "'2024-02-29 12:36:36.789012'", "1709210196789", ""},
		{"timestamp(3)", "'1969-12-31 23:59:59.999'", "-1", ""},
		{"timestamp(3)", "'infinity'", "9223372036825200", ""},
		{"timestamp(3)", "'-infinity'", "-9223372036832400", ""},
		{"timestamp(4)", "'2024-02-29 12:36:36.789012'", "1709210196789000", ""},
		{"timestamp(6)", "'2024-02-29 12:36:36.789012'", "1709210196789012", ""},
		{"timestamptz", "'2024-02-29 07:04:56.789012Z'", "2024-02-29T07:04:56.789012Z", ""},
		{"timestamptz", "'2024-02-29 07:04:56Z'", "2024-02-29T07:04:56.000000Z", ""},
		{"timestamptz", "'1883-11-18 12:00:00Z'", "1883-11-18T12:00:00.000000Z", ""},
		{"timestamptz", "'0044-03-15 12:00:00Z BC'", "-0043-03-15T12:00:00.000000Z", ""},
		{"timestamptz", "'0001-12-31 23:59:59Z BC'", "0000-12-31T23:59:59.000000Z", ""},
		{"timestamptz", "'4713-11-24 00:00:00Z BC'", "-4712-11-24T00:00:00.000000Z", ""},
		{"timestamptz", "'294276-12-30 23:59:59.999999Z'", "+294276-12-30T23:59:59.999999Z", ""},
		{"timestamptz", "'infinity'", "infinity", ""},
		{"timestamptz", "'-infinity'", "-infinity", ""},
		{"timestamptz(0)", "'2024-02-29 07:04:56.789012Z'", "2024-02-29T07:04:57Z", ""},
		{"timestamptz(1)", "'2024-02-29 07:04:56.789012Z'", "2024-02-29T07:04:56.8Z", ""},
		{"timestamptz(2)", "'2024-02-29 07:04:56.789012Z'", "2024-02-29T07:04:56.79Z", ""},
		{"timestamptz(3)", "'2024-02-29 07:04:56.789012Z'", "2024-02-29T07:04:56.789Z", ""},
		{"timestamptz(4)", "'2024-02-29 07:04:56.789012Z'", "2024-02-29T07:04:56.7890Z", ""},
		{"timestamptz(5)", "'2024-02-29 07:04:56.789012Z'", "2024-02-29T07:04:56.78901Z", ""},
		{"timestamptz(6)", "'2024-02-29 07:04:56.789012Z'", "2024-02-29T07:04:56.789012Z", ""},
	}
	conn := envtest.NewDatabase(t).Connect(t)
	for _, zone := range []string{"UTC", "America/New_York", "Asia/Kathmandu"} {
		t.Run(zone, func(t *testing.T) {
			mustExec(t, conn, "SET TimeZone = '"+zone+"'")
			for _, output := range []string{"hex", "escape"} {
				mustExec(t, conn, "SET bytea_output = "+output)
				for _, tt := range tests {
					query := "SELECT (" + tt.value + ")::" + tt.typ
					for _, format := range []cdc.Format{cdc.Text, cdc.Binary} {
						rec := route(t, Config{Place: []string{"v:header"}}, selectValue(t, conn, query, format))
						raw := tt.raw
						if raw == "" {
							raw = tt.header
						}
						if got := string(rec.Headers[1].Value); got != tt.header {
							t.Errorf("%s as %c: header %q, want %q", query, format, got, tt.header)
						}
						if string(rec.Key) != raw || string(rec.Value) != raw {
							t.Errorf("%s as %c: key %q, payload %q, want %q", query, format, rec.Key, rec.Value, raw)
						}
					}
				}
			}
		})
	}
}

// selectValue returns the event of a row whose key, payload and column v are
// the query's value.
func selectValue(t *testing.T, conn *pgx.Conn, query string, format cdc.Format) *cdc.Event {
	t.Helper()
	code := int16(pgtype.TextFormatCode)
	if format == cdc.Binary {
		code = pgtype.BinaryFormatCode
	}
	result := conn.PgConn().ExecParams(t.Context(), query, nil, nil, nil, []int16{code}).Read()
	if result.Err != nil {
		t.Fatalf("%s: %v", query, result.Err)
	}
	field := result.FieldDescriptions[0]
	if !BinarySafe(field.DataTypeOID) {
		t.Fatalf("%s: type %d is not BinarySafe", query, field.DataTypeOID)
	}
	c := cell{"v", field.DataTypeOID, field.TypeModifier, cdc.Value{Format: format, Data: result.Rows[0][0]}}
	key, payload := c, c
	key.name, payload.name = "aggregateid", "payload"
	return event(key, payload, c)
}

// Types that are not asked for in binary are printed in a header as Debezium does.
func TestOtherTypes(t *testing.T) {
	conn := envtest.NewDatabase(t).Connect(t)
	mustExec(t, conn, "CREATE TYPE mood AS ENUM ('sad', 'happy day')")
	for value, want := range map[string]string{
		"1.50::numeric": `{"scale":2,"value":"AJY="}`, "'{1,2}'::int[]": "[1,2]", "1.5::float8": "1.5", "'12:00'::time": "43200000000",
		"'happy day'::mood": "happy day", "'1 day'::interval": "86400000000", `'x'::"char"`: "x",
	} {
		result := conn.PgConn().ExecParams(t.Context(), "SELECT "+value, nil, nil, nil, nil).Read()
		if result.Err != nil {
			t.Fatal(result.Err)
		}
		typ := result.FieldDescriptions[0].DataTypeOID
		if BinarySafe(typ) {
			t.Errorf("%s is BinarySafe", value)
		}
		rec := route(t, Config{Place: []string{"v:header"}}, event(cellText("v", typ, string(result.Rows[0][0]))))
		if got := string(rec.Headers[1].Value); got != want {
			t.Errorf("%s is printed as %q, want %q", value, got, want)
		}
	}
}

// Every day of a long time, and the ends of what there is, agree with Postgres.
func TestCalendar(t *testing.T) {
	conn := envtest.NewDatabase(t).Connect(t)
	const query = `SELECT date '2000-01-01' + n, n FROM generate_series(-1100000, 1000000, 97) n
UNION ALL SELECT date '2000-01-01' + n, n FROM generate_series(-731000, -730000) n
UNION ALL SELECT date '2000-01-01' + n, n FROM generate_series(-100, 800) n`
	result := conn.PgConn().ExecParams(t.Context(), query, nil, nil, nil, []int16{0, 0}).Read()
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	for _, row := range result.Rows {
		days, err := parseDays(row[0])
		if got := fmt.Sprint(days); err != nil || got != string(row[1]) {
			t.Fatalf("parseDays(%s) = %s, %v, want %s", row[0], got, err, row[1])
		}
		iso := string(appendISO(nil, micros(days)*day, 0))
		if bc := strings.HasSuffix(string(row[0]), " BC"); !bc && iso != string(row[0])+"T00:00:00Z" {
			t.Fatalf("appendISO(%d days) = %s, want %s", days, iso, row[0])
		}
		year, month, dom := civil(int64(days))
		if got := fromCivil(year, month, dom); got != int64(days) {
			t.Fatalf("fromCivil(civil(%d)) = %d", days, got)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2024-02-29 07:04:56.789012+05:30", "0044-03-15 00:00:00 BC", "infinity", "294276-12-31 23:59:59.999999", "5874897-12-31"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		if m, err := parseMicros(s); err == nil {
			iso := appendISO(nil, m, -1)
			if len(iso) > maxPrinted || len(appendUnix(nil, m, -1)) > maxPrinted {
				t.Errorf("%q is printed as %q, longer than %d", s, iso, maxPrinted)
			}
		}
		if days, err := parseDays(s); err == nil {
			appendDays(nil, days)
		}
	})
}

func mustExec(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}
