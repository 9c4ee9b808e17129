package config

import (
	"reflect"
	"strings"
	"testing"
)

func TestExampleChangesNothing(t *testing.T) {
	text, err := Example()
	if err != nil {
		t.Fatal(err)
	}
	c := mustLoad(t, []string{"--config=" + write(t, "walpost.yaml", string(text))}, nil)
	if want := mustLoad(t, nil, nil); !reflect.DeepEqual(plain(c), plain(want)) {
		t.Errorf("got %+v, want %+v", plain(c), plain(want))
	}
	for _, v := range c.Effective() {
		if v.Source != SourceFile {
			t.Errorf("%s: got source %s, want %s", v.Key, v.Source, SourceFile)
		}
	}
	for _, want := range []string{
		"\n\nkafka:\n  # Brokers to learn the cluster from.\n  brokers: ['localhost:9092']\n",
		"  # Codec for record batches. One of none, gzip, snappy, lz4, zstd.\n  compression: lz4\n",
		"  # Partitions of created topics. Default: the broker's default.\n  partitions: 0\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestMarkdownTable(t *testing.T) {
	rows := strings.Split(strings.TrimSpace(MarkdownTable()), "\n")
	if got, want := len(rows), len(settings)+2; got != want {
		t.Errorf("got %d rows, want %d", got, want)
	}
	for _, want := range []string{
		`| key | default | |`,
		"| `postgres.dsn` | libpq's PG\\* variables | Connection string, a URL or keywords. Unix sockets and TLS as libpq has them. |",
		"| `kafka.compression` | `lz4` | Codec for record batches. One of none, gzip, snappy, lz4, zstd. |",
		"| `outbox.topic` | `outbox.event.${routedByValue}` | Topic. \\${name} and \\$1 stand for groups of outbox.route\\_regex. |",
		"| `kafka.sasl.password` |  | Password, for PLAIN and SCRAM. |",
	} {
		found := false
		for _, row := range rows {
			found = found || row == want
		}
		if !found {
			t.Errorf("no row %s in\n%s", want, strings.Join(rows, "\n"))
		}
	}
}

func TestSettingsAreDescribed(t *testing.T) {
	for i := range settings {
		if s := &settings[i]; !strings.HasSuffix(s.Help, ".") || strings.ContainsAny(s.Help+s.Means, "`\n") {
			t.Errorf("%s: help %q is not one line of sentences", s.Key, s.Help)
		}
	}
}
