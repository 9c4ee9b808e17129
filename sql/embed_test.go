package sqlfiles

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestRender(t *testing.T) {
	names := Names{
		Tables:      []pgx.Identifier{{"public", "outbox"}, {`a"b`, `c\d,e`}},
		Publication: `it's`, Role: `back\slash`, Slot: "orders_2", NoFailover: true,
	}
	steps, err := Render(names)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		Outbox:      {`SET walpost.outbox_tables TO  E'{"\\"public\\".\\"outbox\\"","\\"a\\"\\"b\\".\\"c\\\\d,e\\""}';`},
		Publication: {`SET walpost.publication TO 'it''s';`, `SET walpost.outbox_tables TO  E'{`},
		Checkpoint:  {"CREATE TABLE walpost.checkpoint"},
		Role:        {`SET walpost.role TO  E'back\\slash';`},
		Slot:        {"SET walpost.slot TO 'orders_2';", "SET walpost.failover TO 'false';"},
	}
	for _, step := range steps {
		for _, part := range want[step.File] {
			if !strings.Contains(step.SQL, part) {
				t.Errorf("%s lacks %s:\n%s", step.File, part, step.SQL)
			}
		}
	}
}

func TestRenderDefaults(t *testing.T) {
	steps, err := Render(Names{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		Outbox:      "SET walpost.outbox_tables TO '{public.outbox}';",
		Publication: "SET walpost.publication TO 'walpost';",
		Role:        "SET walpost.role TO 'walpost';",
		Slot:        "SET walpost.failover TO 'true';",
	}
	for _, step := range steps {
		if !strings.Contains(step.SQL, want[step.File]) {
			t.Errorf("%s lacks %s:\n%s", step.File, want[step.File], step.SQL)
		}
	}
}

// What is rendered must hold nothing that only psql understands.
func TestRenderLeavesPlainSQL(t *testing.T) {
	steps, err := Render(Names{})
	if err != nil {
		t.Fatal(err)
	}
	files, err := fs.Glob(Files, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	var rendered []string
	for _, step := range steps {
		rendered = append(rendered, step.File)
		if strings.Contains(step.SQL, "\n\\") || variable.MatchString(step.SQL) {
			t.Errorf("%s has psql commands or variables left:\n%s", step.File, step.SQL)
		}
		if !strings.HasPrefix(step.Title, "The ") || strings.Contains(step.Title, "\n") {
			t.Errorf("%s: title = %q", step.File, step.Title)
		}
	}
	if !slices.Equal(rendered, files) {
		t.Errorf("rendered %q, want every file in order: %q", rendered, files)
	}
}

func TestRenderChosenFiles(t *testing.T) {
	steps, err := Render(Names{}, Slot, Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != 2 || steps[0].File != Slot || steps[1].File != Checkpoint {
		t.Errorf("Render(Slot, Checkpoint) = %+v", steps)
	}
	if _, err := Render(Names{}, "none.sql"); err == nil {
		t.Error("Render() of a file that is not there = nil error")
	}
}

func TestRenderChecksNames(t *testing.T) {
	long := strings.Repeat("ü", 32) // 64 bytes
	_, err := Render(Names{
		Tables:      []pgx.Identifier{{"outbox"}, {"app", ""}, {"app", long}},
		Publication: long, Role: "a\x00b", Slot: "Orders",
	})
	if err == nil {
		t.Fatal("Render() = nil error")
	}
	for _, want := range []string{
		`table "outbox": want a schema and a name`, `table "app"."": want`, "name \"" + long + `" is longer than 63`,
		"publication \"" + long, "role \"a\\x00b\" has a zero byte", `slot "Orders": only`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Render() = %v, want it to tell of %s", err, want)
		}
	}
}

func TestSubstituteWantsValues(t *testing.T) {
	if got, err := substitute("SET a TO :'nothing';", nil, nil); err == nil {
		t.Errorf("substitute() = %q, want an error", got)
	}
}
