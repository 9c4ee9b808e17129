package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// goTogether is an environment with every setting that goes with the others.
func goTogether(t *testing.T) []string {
	samples := samples(t)
	delete(samples, "postgres.dsn_file")        // conflicts with dsn
	delete(samples, "kafka.sasl.password_file") // conflicts with password
	delete(samples, "kafka.schema_registry.password_file")
	delete(samples, "kafka.sasl.token") // another mechanism
	delete(samples, "kafka.sasl.token_file")
	delete(samples, "checkpoint.file") // another store
	delete(samples, "delivery.poison") // does not go with exactly-once
	samples["checkpoint.store"] = sample{text: "kafka"}
	var environ []string
	for key, s := range samples {
		environ = append(environ, settingOf(key).env()+"="+s.text)
	}
	return environ
}

func TestEnvironLoadsAgain(t *testing.T) {
	before := mustLoad(t, nil, goTogether(t))
	if after := mustLoad(t, nil, before.Environ(nil)); !reflect.DeepEqual(plain(after), plain(before)) {
		t.Errorf("got  %+v\nwant %+v", plain(after), plain(before))
	}
	if printed := fmt.Sprintf("%+v %#v", before, before); strings.Contains(printed, "pa,ss: #w") || before.Kafka.SASL.Password != "pa,ss: #w" {
		t.Errorf("a secret is printed: %s", printed)
	}
	after := mustLoad(t, nil, before.Environ(map[string]string{"postgres.slot": "other", "postgres.shard": "", "log.level": "info"}))
	if after.Postgres.Slot != "other" || after.Log.Level != slog.LevelInfo || after.Kafka.SASL.Password != before.Kafka.SASL.Password {
		t.Errorf("got %+v", plain(after))
	}
	if environ := mustLoad(t, nil, nil).Environ(nil); len(environ) > 1 { // the store follows from the guarantee
		t.Errorf("defaults are said: %q", environ)
	}
}

func TestEffectiveYAMLLoadsAgain(t *testing.T) {
	before := mustLoad(t, nil, goTogether(t))
	text, err := before.Effective().YAML()
	if err != nil {
		t.Fatal(err)
	}
	after := mustLoad(t, []string{"--config=" + write(t, "walpost.yaml", string(text))}, nil)
	before.Kafka.SASL.Password, after.Kafka.SASL.Password = "", "" // masked
	before.Kafka.SchemaRegistry.Password, after.Kafka.SchemaRegistry.Password = "", ""
	if !reflect.DeepEqual(plain(after), plain(before)) {
		t.Errorf("got  %+v\nwant %+v\nfrom %s", plain(after), plain(before), text)
	}
}

func TestEffectiveShowsSources(t *testing.T) {
	c := mustLoad(t, []string{
		"--slot=orders", "--brokers=a:1,b:2", "--dsn=postgres://me:secret@db/x", "--kafka.partitions=3",
	}, []string{"WALPOST_KAFKA_CREATE_TOPICS=true"})
	text, err := c.Effective().YAML()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"postgres:\n  dsn: postgres://me:****@db/x # flag\n",
		"  slot: orders # flag\n",
		"  brokers: ['a:1', 'b:2'] # flag\n",
		"  create_topics: true # environment\n",
		"\n  retry:\n    initial: 100ms # default\n",
		"  place: [] # default\n",
		"  spill_dir: \"\" # default\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}

	object := map[string]map[string]any{}
	data, err := json.Marshal(c.Effective())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &object); err != nil {
		t.Fatal(err)
	}
	if len(object) != len(settings) {
		t.Errorf("got %d settings, want %d", len(object), len(settings))
	}
	for key, want := range map[string]map[string]any{
		"postgres.dsn":        {"value": "postgres://me:****@db/x", "source": "flag"},
		"kafka.brokers":       {"value": []any{"a:1", "b:2"}, "source": "flag"},
		"kafka.partitions":    {"value": 3.0, "source": "flag"},
		"kafka.create_topics": {"value": true, "source": "environment"},
		"outbox.place":        {"value": []any{}, "source": "default"},
		"delivery.retry.max":  {"value": "30s", "source": "default"},
	} {
		if !reflect.DeepEqual(object[key], want) {
			t.Errorf("%s: got %v, want %v", key, object[key], want)
		}
	}
}

// shown is everything that may be printed of a configuration.
func shown(t *testing.T, args, environ []string) string {
	t.Helper()
	c, err := load(t, args, environ)
	if err != nil {
		return fmt.Sprintf("%v %+v", err, err)
	}
	text, err := c.Effective().YAML()
	if err != nil {
		t.Fatal(err)
	}
	object, err := json.Marshal(struct {
		Config    Config
		Effective Effective
	}{c, c.Effective()})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("", "postgres", c.Postgres)
	slog.New(slog.NewTextHandler(&log, nil)).Info("", "dsn", c.Postgres.DSN, "sasl", c.Kafka.SASL)
	_, line, _ := strings.Cut(log.String(), "msg")
	line, _, _ = strings.Cut(line, "time=")
	return fmt.Sprintf("%s\n%s\n%s\n%v\n%+v\n%#v\n%q\n%x", text, object, line, c, c, c, c.Kafka.SASL.Password, c.Postgres.DSN)
}

// What is shown must be the same whatever the secret is: then it holds nothing
// of it.
func FuzzSecretsAreNotShown(f *testing.F) {
	for _, s := range []string{"hunter2", "p@ss:w/o?rd#", "two words", `'\"`, "%zz", "a=b c=d", "x'y", "host", "?a=b", "/", "\n", "ä", "&b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, secret string) {
		if strings.ContainsRune(secret, 0) || strings.Trim(secret, "\r\n") == "" {
			t.Skip("not a secret that a variable or a file can hold")
		}
		file := write(t, "secret", "")
		show := func(secret string) []string {
			rewrite(t, file, secret)
			sasl := []string{"WALPOST_KAFKA_SASL_MECHANISM=PLAIN", "WALPOST_KAFKA_SASL_USERNAME=me"}
			token := []string{"WALPOST_KAFKA_SASL_MECHANISM=OAUTHBEARER"}
			return []string{
				shown(t, nil, append(sasl, "WALPOST_KAFKA_SASL_PASSWORD="+secret)),
				shown(t, nil, append(sasl, "WALPOST_KAFKA_SASL_PASSWORD_FILE="+file)),
				shown(t, nil, append(token, "WALPOST_KAFKA_SASL_TOKEN="+secret)),
				shown(t, nil, append(token, "WALPOST_KAFKA_SASL_TOKEN_FILE="+file)),
				shown(t, nil, []string{"WALPOST_POSTGRES_PASSWORD_FILE=" + file}),
				shown(t, nil, []string{"WALPOST_KAFKA_SASL_PASSWORD=" + secret}),
				shown(t, nil, []string{"WALPOST_KAFKA_PASSWORD=" + secret}),
				shown(t, []string{"--postgres.dsn=postgres://me:" + url.QueryEscape(secret) + "@db/x"}, nil),
				shown(t, []string{"--postgres.dsn=postgresql:///x?sslmode=require&password=" + url.QueryEscape(secret)}, nil),
				shown(t, []string{"--postgres.dsn=host=db password=" + quoteKeyword(secret) + " dbname=x"}, nil),
				shown(t, []string{"--postgres.dsn=sslpassword = " + quoteKeyword(secret) + " user=me"}, nil),
			}
		}
		got, want := show(secret), show("another secret")
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("case %d shows something of %q:\n%s\nanother secret:\n%s", i, secret, got[i], want[i])
			}
		}
		rewrite(t, file, "postgres://me:"+secret+"@db/x")
		for _, text := range []string{
			shown(t, []string{"--postgres.dsn=postgres://me:" + secret + "@db/x"}, nil),
			shown(t, nil, []string{"WALPOST_POSTGRES_DSN_FILE=" + file}),
		} {
			if len(secret) > 4 && !strings.Contains(known(t, file), secret) && strings.Contains(text, secret) {
				t.Errorf("%q is in\n%s", secret, text)
			}
		}
	})
}

// known is text that is shown anyway.
func known(t *testing.T, file string) string {
	rewrite(t, file, "host=x")
	return shown(t, nil, []string{"WALPOST_POSTGRES_DSN_FILE=" + file}) +
		shown(t, []string{"--dsn=nonsense"}, nil) + shown(t, []string{"--dsn=postgres://me:a:%zz@db:x/x"}, nil) +
		shown(t, []string{"--dsn=postgres://me:x@db/x"}, nil)
}

func TestSecretPrintsAsAsterisks(t *testing.T) {
	s := Secret("hunter2")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		if got := fmt.Sprintf(verb, s); got != mask {
			t.Errorf("%s: got %s, want %s", verb, got, mask)
		}
	}
	if got := Secret("").String(); got != "" {
		t.Errorf("empty secret: got %q, want nothing", got)
	}
}
