package config

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// Whatever is in a file, it is a configuration, or all that is wrong with it is said;
// and what is shown of a configuration is a file that makes the same one.
func FuzzFile(f *testing.F) {
	example, err := Example()
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		string(example), "", "{}", "[]", "kafka:\n  brokers: [a:1, b:2]\n  linger: 5ms\n", "kafka: {tls: {enabled: yes}}", "outbox.place: a:header:b\n",
		"postgres:\n  slot: [x]\n", "kafka: &a\n  brokers: *a\n", "? [a]\n: b\n", "a: b: c", "\x00", "kafka:\n  linger: 1e400\n", "log: !!binary aGk=\n", "outbox:\n  table: '\"a\"\"b\".\"c\"'\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "_file") {
			t.Skip("would read any file of this machine")
		}
		file := write(t, "walpost.yaml", text)
		c, err := load(t, []string{"--config=" + file}, nil)
		if err != nil {
			if e := new(Error); !errors.As(err, &e) || len(e.Problems) == 0 || e.Error() == "" {
				t.Fatalf("Load: got %v, want an Error with problems", err)
			}
			return
		}
		if c.Postgres.DSN != "" || c.Kafka.SASL != (SASL{}) {
			return // what is shown lacks the secrets
		}
		shown, err := c.Effective().YAML()
		if err != nil {
			t.Fatal(err)
		}
		rewrite(t, file, string(shown))
		again, err := load(t, []string{"--config=" + file}, nil)
		if err != nil || !reflect.DeepEqual(plain(again), plain(c)) {
			t.Errorf("%v: the configuration that is shown makes\n%+v\nwant\n%+v", err, plain(again), plain(c))
		}
	})
}

// Health checks and metrics are for this machine, unless somebody says otherwise.
func TestAdminIsLocalByDefault(t *testing.T) {
	addr, err := netip.ParseAddrPort(mustLoad(t, nil, nil).Admin.Listen)
	if err != nil || !addr.Addr().IsLoopback() {
		t.Errorf("admin.listen defaults to %s, %v, want a loopback address", addr, err)
	}
}
