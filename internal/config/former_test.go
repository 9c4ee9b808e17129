package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// rename gives settings a former key for the time of a test.
func rename(t *testing.T, former map[string]string) {
	t.Helper()
	before := settings
	t.Cleanup(func() { settings = before })
	settings = slices.Clone(settings)
	for key, was := range former {
		settingOf(key).Was = []string{was}
	}
}

func TestFormerKeys(t *testing.T) {
	rename(t, map[string]string{"postgres.slot": "source.slot-name", "kafka.brokers": "kafka.bootstrap", "outbox.position_headers": "positions"})
	path := write(t, "walpost.yaml", "source:\n  slot-name: one\nkafka.bootstrap: [a:1, b:2]\n")
	inFile := []Former{{"kafka.bootstrap", "kafka.brokers", path + ":3"}, {"source.slot-name", "postgres.slot", path + ":2"}}
	for _, test := range []struct {
		args, environ []string
		slot          string
		want          []Former
	}{
		{slot: "walpost"},
		{args: []string{"--slot=two"}, slot: "two"},
		{args: []string{"--config=" + path}, slot: "one", want: inFile},
		{args: []string{"--config=" + path, "--slot=two"}, slot: "two", want: inFile},
		{environ: []string{"WALPOST_SOURCE_SLOT_NAME=two"}, slot: "two", want: []Former{{"WALPOST_SOURCE_SLOT_NAME", "WALPOST_POSTGRES_SLOT", ""}}},
		{
			args: []string{"--source.slot-name=two", "--positions", "--kafka.bootstrap=a:1", "--kafka.bootstrap=b:2"}, slot: "two",
			want: []Former{{"--kafka.bootstrap", "--kafka.brokers", ""}, {"--positions", "--outbox.position_headers", ""}, {"--source.slot-name", "--postgres.slot", ""}},
		},
	} {
		c := mustLoad(t, test.args, test.environ)
		if c.Postgres.Slot != test.slot || !reflect.DeepEqual(c.Former(), test.want) {
			t.Errorf("%q %q: slot %s, former %v; want %s, %v", test.args, test.environ, c.Postgres.Slot, c.Former(), test.slot, test.want)
		}
		if len(test.want) > 1 && !slices.Equal(c.Kafka.Brokers, []string{"a:1", "b:2"}) {
			t.Errorf("%q: brokers %q", test.args, c.Kafka.Brokers)
		}
	}
}

// A former key beside the present one is a question of which holds.
func TestFormerBesidePresent(t *testing.T) {
	rename(t, map[string]string{"postgres.slot": "source.slot"})
	path := write(t, "walpost.yaml", "source.slot: one\npostgres:\n  slot: two\n")
	for _, test := range []struct {
		args, environ []string
		want          Problem
	}{
		{args: []string{"--config=" + path}, want: Problem{"postgres.slot", path + ":3", "means the same as source.slot on line 1", "set postgres.slot only"}},
		{
			environ: []string{"WALPOST_SOURCE_SLOT=a", "WALPOST_POSTGRES_SLOT=a"},
			want:    Problem{"WALPOST_POSTGRES_SLOT", "", "means the same as WALPOST_SOURCE_SLOT", "set WALPOST_POSTGRES_SLOT only"},
		},
		{args: []string{"--source.slot=a", "--postgres.slot=a"}, want: Problem{"--source.slot", "", "means the same as --postgres.slot", "use one of the two"}},
		{environ: []string{"WALPOST_SOURCE_SLOT=A"}, want: Problem{"WALPOST_SOURCE_SLOT", "", `"A" is not a slot's name`, "1 to 63 lower-case letters, digits and underscores"}},
	} {
		if got := problems(t, test.args, test.environ); len(got) != 1 || got[0] != test.want {
			t.Errorf("got %+v, want %+v", got, test.want)
		}
	}
}

// Nobody is to learn a former key.
func TestFormerKeysHidden(t *testing.T) {
	rename(t, map[string]string{"postgres.slot": "oldname"})
	flags := pflag.NewFlagSet("walpost", pflag.ContinueOnError)
	AddFlags(flags)
	example, err := Example()
	if err != nil {
		t.Fatal(err)
	}
	effective, err := mustLoad(t, []string{"--oldname=a"}, nil).Effective().YAML()
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"help": flags.FlagUsages(), "table": MarkdownTable(), "example": string(example), "effective": string(effective),
		"hint": FlagError(flags, nil, flags.Parse([]string{"--oldnam=a"})).(*Error).Problems[0].Hint, //nolint:errorlint // it is that very type
	} {
		if strings.Contains(text, "oldname") {
			t.Errorf("%s tells of the former key:\n%s", what, text)
		}
	}
}

// A key means one setting.
func TestFormerKeysUnique(t *testing.T) {
	seen := map[string]bool{}
	for i := range settings {
		for _, key := range append(settings[i].keys(), envOf(settings[i].Key)) {
			if seen[key] {
				t.Errorf("%s is the key of two settings", key)
			}
			seen[key] = true
		}
	}
}
