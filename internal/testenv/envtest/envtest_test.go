package envtest

import (
	"context"
	"os"
	"regexp"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestNewDatabase(t *testing.T) {
	s := Postgres(t)
	var first Database
	t.Run("in use until its end", func(t *testing.T) {
		first = NewDatabase(t)
		second := NewDatabase(t)
		first.Exec(t, "CREATE TABLE orders (n int); INSERT INTO orders VALUES (1)")
		second.Exec(t, "CREATE TABLE orders (n int)")
		first.Exec(t, "SELECT pg_create_logical_replication_slot('"+Name(t)+"', 'pgoutput')")
		first.Connect(t)
		if first.SocketDSN == "" && s.SocketDSN() != "" {
			t.Error("the database has no address on the socket, and the server has")
		}
	})
	conn, err := pgx.Connect(t.Context(), s.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) //nolint:errcheck // the test has its answer
	const left = `SELECT (SELECT count(*) FROM pg_database WHERE datname = $1) + (SELECT count(*) FROM pg_replication_slots WHERE database = $1)`
	var n int
	if err := conn.QueryRow(t.Context(), left, first.Name).Scan(&n); err != nil || n != 0 {
		t.Errorf("left %d databases and slots behind, %v", n, err)
	}
}

func TestCreateTopic(t *testing.T) {
	for name, addrs := range map[string]func(*testing.T) []string{
		"real": func(t *testing.T) []string { return Kafka(t).Addrs() },
		"fake": func(t *testing.T) []string { return FakeKafka(t).ListenAddrs() },
	} {
		t.Run(name, func(t *testing.T) {
			addrs := addrs(t)
			maxBytes := "1234567"
			topic := CreateTopic(t, addrs, 12, map[string]*string{"max.message.bytes": &maxBytes})
			record := &kgo.Record{Topic: topic, Value: []byte("x")}
			if err := Client(t, addrs).ProduceSync(t.Context(), record).FirstErr(); err != nil {
				t.Fatal(err)
			}
			configs, err := Admin(t, addrs).DescribeTopicConfigs(t.Context(), topic)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range configs[0].Configs {
				if c.Key == "max.message.bytes" && c.MaybeValue() != maxBytes {
					t.Errorf("max.message.bytes = %s, want %s", c.MaybeValue(), maxBytes)
				}
			}
		})
	}
}

func TestName(t *testing.T) {
	t.Run("Ünïcode, spaces / and A very long name that goes on and on and on and on", func(t *testing.T) {
		legal := regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
		if name := Name(t); !legal.MatchString(name) {
			t.Errorf("Name = %q, want it to match %s", name, legal)
		}
		if first, second := Name(t), Name(t); first == second {
			t.Errorf("two names are the same: %s", first)
		}
	})
}

func TestRequired(t *testing.T) {
	for _, c := range []struct {
		ci, require string
		want        bool
	}{{"", "", false}, {"true", "", true}, {"", "1", true}, {"false", "0", false}} {
		t.Setenv("CI", c.ci)
		t.Setenv(RequireVariable, c.require)
		if got := required(); got != c.want {
			t.Errorf("CI=%s %s=%s: required = %v, want %v", c.ci, RequireVariable, c.require, got, c.want)
		}
	}
}
