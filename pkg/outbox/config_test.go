package outbox

import (
	"errors"
	"strings"
	"testing"

	"github.com/walpost/walpost/pkg/cdc"
)

func TestNewRouterJoinsProblems(t *testing.T) {
	_, err := NewRouter(Config{
		Place:      []string{"a:footer", "b:envelope:c", "p:partition,q:partition", "r:partition:s", "x", ":header", "a:header:b:c"},
		Topic:      "${nope}",
		RouteRegex: "(?=x)",
	})
	if err == nil {
		t.Fatal("NewRouter() = nil error")
	}
	for _, want := range []string{
		`outbox.place: "a:footer": unknown place "footer"`,
		`outbox.place: an envelope needs a value in JSON, and outbox.value_format is raw`,
		`outbox.place: "q:partition": another column is the partition already`,
		`outbox.place: "r:partition:s": a partition takes no alias`,
		`outbox.place: "x": want two or three parts`,
		`outbox.place: ":header": a part is empty`,
		`outbox.place: "a:header:b:c": want two or three parts`,
		`outbox.route_regex: parse "(?=x)": `,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("error %T is not joined", err)
	}
	for _, e := range joined.Unwrap() {
		var refused *cdc.RefusedError
		if !errors.As(e, &refused) || refused.Hint == "" {
			t.Errorf("%v has no hint", e)
		}
	}
}

func TestParseTable(t *testing.T) {
	tests := []struct {
		in     string
		want   Table
		string string
	}{
		{"outbox", Table{"public", "outbox"}, "public.outbox"},
		{" Sales.OutBox ", Table{"sales", "outbox"}, "sales.outbox"},
		{`"Weird Schema"."Out.box"`, Table{"Weird Schema", "Out.box"}, `"Weird Schema"."Out.box"`},
		{`"a""b".c$1`, Table{`a"b`, "c$1"}, `"a""b".c$1`},
		{"größe.über", Table{"größe", "über"}, "größe.über"},
		{`"1a"."_1"`, Table{"1a", "_1"}, `"1a"._1`},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseTable(tt.in)
			if err != nil || got != tt.want {
				t.Fatalf("ParseTable() = %v, %v, want %v", got, err, tt.want)
			}
			if got.String() != tt.string {
				t.Errorf("String() = %s, want %s", got, tt.string)
			}
		})
	}
	for _, in := range []string{
		"", ".", "a.", ".a", "a.b.c", "a b", `"a`, `""`, `"a"b`, "1a", "a-b", "a..b", `a."`, "\xff", `"` + "\x00" + `"`, strings.Repeat("x", 64),
	} {
		if got, err := ParseTable(in); err == nil {
			t.Errorf("ParseTable(%q) = %v, want an error", in, got)
		}
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add(`"a""b".c`)
	f.Fuzz(func(t *testing.T, s string) {
		table, err := ParseTable(s)
		if err != nil {
			return
		}
		again, err := ParseTable(table.String())
		if err != nil || again != table {
			t.Errorf("ParseTable(%q) = %#v, but its String() %q gives %#v, %v", s, table, table, again, err)
		}
	})
}
