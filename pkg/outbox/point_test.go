package outbox

import (
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
)

// A point is a struct where it is placed, and itself as a payload. Its length is one that
// the record's buffer has room for.
func TestPoint(t *testing.T) {
	const want = `{"x":0.0,"y":0.0,"wkb":"AQEAAAAAAAAAAAAAAAAAAAAAAAAA","srid":null}`
	rec := route(t, Config{Place: []string{"v:header"}}, event(cellText("v", pgtype.PointOID, "(0,0)"), cellText("payload", pgtype.PointOID, "(0,0)")))
	if got := string(rec.Headers[1].Value); got != want || string(rec.Value) != "(0,0)" {
		t.Errorf("header %s, payload %s, want %s", got, rec.Value, want)
	}
	for _, text := range []string{"", "(", "(1,)", "(1,x)", "1"} {
		if got, err := appendPoint(nil, []byte(text)); err == nil {
			t.Errorf("appendPoint(%q) = %s", text, got)
		}
	}
	for _, text := range []string{"(0,0)", "(-1.7976931348623157e+308,-2.2250738585072014e-308)", "(NaN,-Infinity)"} {
		v := cellText("v", pgtype.PointOID, text).value
		c := column{kind: point, modifier: -1, form: headerForm}
		got, err := c.append(nil, &v)
		if err != nil || len(got) > c.bound(&v) {
			t.Errorf("%s: %d bytes, and a bound of %d, %v", got, len(got), c.bound(&v), err)
		}
	}
}
