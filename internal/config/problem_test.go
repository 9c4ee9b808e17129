package config

import (
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestAllProblemsAtOnce(t *testing.T) {
	path := write(t, "walpost.yaml", `postgres:
  slto: orders
  status_interval: -1s
  publication: [a, b]
kafka:
  linger: 5
  acks: all
  sasl:
    username: me
`)
	got := problems(t, []string{"--config=" + path, "--slot=Orders", "--delivery.drain_timeout=0"}, []string{
		"WALPOST_KAFKA_BROKER=x:1", "WALPOST_DELIVERY_MAX_TX_MEMORY=lots", "WALPOST_OUTBOX_POSITION_HEADERS=yes",
	})
	at := func(line string) string { return path + ":" + line }
	want := []Problem{
		{"postgres.slto", at("2"), "unknown key", "did you mean postgres.slot?"},
		{"postgres.publication", at("4"), "takes text, not a list or a section", ""},
		{"kafka.acks", at("7"), "unknown key", ""},
		{"WALPOST_KAFKA_BROKER", "", "unknown environment variable", "did you mean WALPOST_KAFKA_BROKERS?"},
		{"--slot", "", `"Orders" is not a slot's name`, "1 to 63 lower-case letters, digits and underscores"},
		{"postgres.status_interval", at("3"), `"-1s" is too little`, "at least 1ms"},
		{"WALPOST_OUTBOX_POSITION_HEADERS", "", `"yes" is not a yes or no`, "true or false"},
		{"kafka.linger", at("6"), `"5" is not a duration`, "add a unit: 5s or 5ms"},
		{"WALPOST_DELIVERY_MAX_TX_MEMORY", "", `"lots" is not a size`, "a whole number of bytes, or with a unit, as in 1048576, 8MB or 24MiB"},
		{"--delivery.drain_timeout", "", `"0" is too little`, "at least 1ms"},
		{"kafka.sasl.username", at("9"), "has no effect with this kafka.sasl.mechanism", passwordHint},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", lines(got), lines(want))
	}
}

func lines(problems []Problem) string {
	var b strings.Builder
	for _, p := range problems {
		b.WriteString(p.String() + " (" + p.Hint + ")\n")
	}
	return b.String()
}

func TestProblems(t *testing.T) {
	there := write(t, "there", "x")
	empty := write(t, "empty", "\n")
	folder := filepath.Dir(there)
	for _, test := range []struct {
		args []string
		want string // key: text (hint), one a line
	}{
		{[]string{"--postgres.dsn=nonsense"}, "--postgres.dsn: is not a connection string (postgres://user@host:5432/database, or host=... user=... dbname=...)"},
		{[]string{"--dsn=postgres://me:a%zz@db/x"}, "--dsn: has a % that starts no escape (write a % in a password as %25)"},
		{[]string{"--dsn=postgres://me:secret@db:x/y"}, "--dsn: has a port that is not a number (write :, / and @ in a password as %3A, %2F and %40)"},
		{[]string{"--dsn=password='open"}, `--dsn: has a quote that does not end (in '...' write a quote as \' and a backslash as \\)`},
		{[]string{"--dsn=host=x", "--postgres.dsn_file=" + there}, "--postgres.dsn_file: conflicts with --dsn (set one of the two; an empty value unsets the other)"},
		{[]string{"--postgres.dsn_file=" + there}, "--postgres.dsn_file: is not a connection string (postgres://user@host:5432/database, or host=... user=... dbname=...)"},
		{[]string{"--dsn=password=x", "--postgres.password_file=" + there}, "--postgres.password_file: conflicts with the password in --dsn (keep one of the two)"},
		{[]string{"--postgres.password_file=/no/such"}, "--postgres.password_file: /no/such: no such file or directory ()"},
		{[]string{"--postgres.password_file=" + empty}, "--postgres.password_file: " + empty + " is empty or larger than 1 MiB ()"},
		{[]string{"--postgres.password_file=" + folder}, "--postgres.password_file: " + folder + ": is a directory ()"},
		{[]string{"--slot=a", "--postgres.slot=a"}, "--slot: means the same as --postgres.slot (use one of the two)"},
		{[]string{"--postgres.failover=on"}, `--postgres.failover: "on" is not one of the choices (auto, true, false)`},
		{[]string{"--publication="}, `--publication: "" is not a name (1 to 63 bytes, without quotes around it)`},
		{[]string{"--outbox.table="}, "--outbox.table: is empty ()"},
		{[]string{"--outbox.table=outbox"}, `--outbox.table: "outbox" is not a table with its schema (` + tableHint + ")"},
		{[]string{"--outbox.table=a.b.c"}, `--outbox.table: "a.b.c" is not a table with its schema (` + tableHint + ")"},
		{[]string{"--outbox.table=1a.b"}, `--outbox.table: "1a.b" is not a table with its schema (` + tableHint + ")"},
		{[]string{`--outbox.table=a."b`}, `--outbox.table: "a.\"b" is not a table with its schema (` + tableHint + ")"},
		{[]string{"--outbox.table=a.b, a.b"}, `--outbox.table: "a.b" is listed twice ()`},
		{[]string{"--outbox.table=a.b,A.B"}, `--outbox.table: "A.B" is listed twice ()`},
		{[]string{"--outbox.place=type:headers"}, `--outbox.place: "type:headers" is not a placement (` + placeHint + ")"},
		{[]string{"--outbox.place=p:partition:x"}, `--outbox.place: "p:partition:x" is not a placement (` + placeHint + ")"},
		{[]string{"--outbox.place=a:header:"}, `--outbox.place: "a:header:" is not a placement (` + placeHint + ")"},
		{[]string{"--outbox.topic="}, "--outbox.topic: is empty ()"},
		{[]string{"--outbox.route_regex="}, "--outbox.route_regex: is empty ()"},
		{[]string{"--outbox.place=a:envelope:"}, `--outbox.place: "a:envelope:" is not a placement (` + placeHint + ")"},
		{[]string{"--purge.archive=ndjson", "--purge.archive_dir=/", "--purge.archive_bucket=archive"}, `--purge.archive_bucket: "archive" is not a bucket (s3://bucket or s3://bucket/prefix)`},
		{[]string{"--brokers=a:1,,b:2"}, `--brokers: "" is not an address (host:port, as in localhost:9092 or [::1]:9092)`},
		{[]string{"--brokers=::1"}, `--brokers: "::1" is not an address (host:port, as in localhost:9092 or [::1]:9092)`},
		{[]string{"--brokers=a:99999"}, `--brokers: "a:99999" is not an address (host:port, as in localhost:9092 or [::1]:9092)`},
		{[]string{"--kafka.compression=brotli"}, `--kafka.compression: "brotli" is not one of the choices (none, gzip, snappy, lz4, zstd)`},
		{[]string{"--kafka.linger=2m"}, `--kafka.linger: "2m" is too much (at most 1m0s)`},
		{[]string{"--kafka.max_message_bytes=100"}, `--kafka.max_message_bytes: "100" is too little (at least 512)`},
		{[]string{"--kafka.partitions=-1"}, `--kafka.partitions: "-1" is too little (at least 0)`},
		{[]string{"--kafka.partitions=many"}, `--kafka.partitions: "many" is not a number (digits only, as in 1000000)`},
		{[]string{"--kafka.tls.ca_file=" + there}, "--kafka.tls.ca_file: has no effect without kafka.tls.enabled (set kafka.tls.enabled to true)"},
		{[]string{"--kafka.tls.enabled", "--kafka.tls.cert_file=" + there}, "--kafka.tls.cert_file: needs kafka.tls.key_file ()"},
		{[]string{"--kafka.tls.enabled", "--kafka.tls.ca_file=/no/such"}, "--kafka.tls.ca_file: /no/such: no such file or directory ()"},
		{[]string{"--kafka.tls.enabled", "--kafka.tls.ca_file=" + folder}, "--kafka.tls.ca_file: " + folder + " is a folder ()"},
		{
			[]string{"--kafka.schema_registry.url=http://x", "--outbox.value_format=binary"},
			"--kafka.schema_registry.url: goes only with --outbox.value_format raw or json (set that, or take the URL out)",
		},
		{[]string{"--kafka.schema_registry.url=registry:8081"}, "--kafka.schema_registry.url: is not a URL (http://host:port or https://host:port)"},
		{
			[]string{"--kafka.schema_registry.url=http://me:secret@x"},
			"--kafka.schema_registry.url: holds a user name (set kafka.schema_registry.username and kafka.schema_registry.password_file)",
		},
		{[]string{"--kafka.schema_registry.username=me"}, "--kafka.schema_registry.username: has no effect without kafka.schema_registry.url ()"},
		{[]string{"--kafka.sasl.username=me"}, "--kafka.sasl.username: has no effect with this kafka.sasl.mechanism (" + passwordHint + ")"},
		{
			[]string{"--kafka.sasl.mechanism=plain"},
			"--kafka.sasl.mechanism: needs kafka.sasl.username ()\n--kafka.sasl.mechanism: needs kafka.sasl.password (or set kafka.sasl.password_file)",
		},
		{[]string{"--kafka.sasl.mechanism=OAUTHBEARER"}, "--kafka.sasl.mechanism: needs kafka.sasl.token (or set kafka.sasl.token_file)"},
		{
			[]string{"--kafka.sasl.mechanism=PLAIN", "--kafka.sasl.username=u", "--kafka.sasl.password=p", "--kafka.sasl.password_file=" + there},
			"--kafka.sasl.password_file: conflicts with --kafka.sasl.password (set one of the two; an empty value unsets the other)",
		},
		{
			[]string{"--kafka.sasl.mechanism=PLAIN", "--kafka.sasl.username=u", "--kafka.sasl.password_file=/no/such"},
			"--kafka.sasl.password_file: /no/such: no such file or directory ()",
		},
		{
			[]string{"--kafka.sasl.mechanism=OAUTHBEARER", "--kafka.sasl.token=t", "--kafka.sasl.token_file=" + there},
			"--kafka.sasl.token_file: conflicts with --kafka.sasl.token (set one of the two; an empty value unsets the other)",
		},
		{[]string{"--kafka.sasl.mechanism=AWS_MSK_IAM", "--kafka.sasl.token=t"}, "--kafka.sasl.token: has no effect with this --kafka.sasl.mechanism (" + tokenHint + ")"},
		{
			[]string{"--kafka.sasl.mechanism=KERBEROS", "--kafka.sasl.username=u"},
			`--kafka.sasl.mechanism: "KERBEROS" is not one of the choices (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, AWS_MSK_IAM)`,
		},
		{[]string{"--delivery.guarantee=exactly-once", "--checkpoint.store=slot"}, "--checkpoint.store: conflicts with --delivery.guarantee exactly-once (leave checkpoint.store out, or set it to kafka)"},
		{[]string{"--kafka.transaction_timeout=5s"}, "--kafka.transaction_timeout: has no effect with this delivery.guarantee (set delivery.guarantee to exactly-once)"},
		{[]string{"--delivery.poison=skip"}, `--delivery.poison: "skip" is not one of the choices (stop, dead-letter)`},
		{[]string{"--delivery.dead_letter_topic=a/b"}, `--delivery.dead_letter_topic: "a/b" is not a topic's name (1 to 249 letters, digits, dots, underscores and hyphens)`},
		{[]string{"--delivery.dead_letter_topic=.."}, `--delivery.dead_letter_topic: ".." is not a topic's name (1 to 249 letters, digits, dots, underscores and hyphens)`},
		{[]string{"--delivery.max_in_flight_bytes=0"}, `--delivery.max_in_flight_bytes: "0" is too little (at least 1)`},
		{[]string{"--delivery.max_in_flight_bytes=99999999TiB"}, `--delivery.max_in_flight_bytes: "99999999TiB" is too large ()`},
		{[]string{"--delivery.spill_dir=" + there}, "--delivery.spill_dir: " + there + " is not a folder ()"},
		{[]string{"--delivery.retry.initial=1m"}, "--delivery.retry.initial: is longer than delivery.retry.max ()"},
		{[]string{"--checkpoint.store=kafka"}, "--checkpoint.store: kafka needs delivery.guarantee exactly-once (set that, or choose postgres, slot or file)"},
		{[]string{"--checkpoint.store=file"}, "--checkpoint.store: needs checkpoint.file (the path of the file)"},
		{[]string{"--checkpoint.file=x"}, "--checkpoint.file: has no effect with this checkpoint.store (set checkpoint.store to file)"},
		{[]string{"--checkpoint.store=file", "--checkpoint.file=/no/such/x"}, "--checkpoint.file: /no/such: no such file or directory ()"},
		{[]string{"--checkpoint.store=file", "--checkpoint.file=" + folder}, "--checkpoint.file: " + folder + " is a folder ()"},
		{[]string{"--admin.listen=9187"}, `--admin.listen: "9187" is not an address (host:port, as in 127.0.0.1:9187; empty turns it off)`},
		{[]string{"--log.level=loud"}, `--log.level: "loud" is not one of the choices (debug, info, warn, error)`},
		{[]string{"--admin.max_lag=1day"}, `--admin.max_lag: "1day" is not a duration (a number with a unit, as in 500ms, 10s or 1m30s)`},
		{[]string{"--config=/no/such"}, "--config: /no/such: no such file or directory (" + exampleHint + ")"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			got := strings.TrimSpace(lines(problems(t, test.args, nil)))
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestFileProblems(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"not YAML", "postgres:\n\tslot: x\n", "2: is not YAML: found character that cannot start any token (" + exampleHint + ")"},
		{"text", "hunter2 and more", "1: is not a list of keys with values (" + exampleHint + ")"},
		{"list", "- postgres", "1: is not a list of keys with values (" + exampleHint + ")"},
		{"two documents", "log.level: info\n---\nlog.level: warn\n", "2: a second document begins here (remove the line ---)"},
		{"section with text", "delivery:\n  retry: 5s\n", "2: delivery.retry: is a section, not a setting (its settings are delivery.retry.initial, delivery.retry.max)"},
		{"setting with a section", "postgres: {slot: {name: x}}", "1: postgres.slot: takes text, not a list or a section ()"},
		{"item that is a section", "outbox: {table: [{name: x}]}", "1: outbox.table: item 1 takes text, not a list or a section ()"},
		{"twice", "log:\n  level: info\n  level: warn\n", "3: log.level: is set twice (first on line 2)"},
		{"twice, once with a dot", "log:\n  level: info\nlog.level: warn\n", "3: log.level: is set twice (first on line 2)"},
		{"section with a slip", "kafak:\n  brokers: x\n", "1: kafak: unknown key (did you mean kafka?)"},
		{"without its section", "slot: x", "1: slot: unknown key (did you mean postgres.slot?)"},
		{"beginning of a name", "kafka.sasl.user: x", "1: kafka.sasl.user: unknown key (did you mean kafka.sasl.username?)"},
		{"Debezium's", "slot.name: x", "1: slot.name: unknown key (Debezium's slot.name is postgres.slot here)"},
		{
			"Debezium's router", "transforms.outbox.route.by.field: x",
			"1: transforms.outbox.route.by.field: unknown key (Debezium's transforms.outbox.route.by.field is outbox.route here)",
		},
		{"tag", "kafka.sasl.password: !vault x", "1: kafka.sasl.password: has the tag !vault, which is not understood ()"},
		{"merge key", "<<: {}", "1: <<: is not a plain key (write the settings out)"},
		{"alias of itself", "kafka: &k\n  tls: *k\n", "2: kafka.tls: is a section, not a setting (its settings are " + strings.Join(keysOf("kafka.tls"), ", ") + ")"},
		{"value", "log:\n\n  level: loud\n", `3: log.level: "loud" is not one of the choices (debug, info, warn, error)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := write(t, "walpost.yaml", test.text)
			got := strings.TrimSpace(lines(problems(t, []string{"--config=" + path}, nil)))
			if want := path + ":" + strings.Replace(test.want, ": ", ": ", 1); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestEnvironmentHints(t *testing.T) {
	for name, want := range map[string]string{
		"WALPOST_DSN":                "did you mean WALPOST_POSTGRES_DSN?",
		"WALPOST_SLOT":               "did you mean WALPOST_POSTGRES_SLOT?",
		"WALPOST_POSTGRES_SLTO":      "did you mean WALPOST_POSTGRES_SLOT?",
		"WALPOST_KAFKA_SASL_USER":    "did you mean WALPOST_KAFKA_SASL_USERNAME?",
		"WALPOST_NONSENSE":           "",
		"WALPOST_POSTGRES_DSN_":      "did you mean WALPOST_POSTGRES_DSN_FILE?",
		"WALPOST_CONFIG_FILE":        "",
		"WALPOST_":                   "",
		"WALPOST_postgres_slot":      "did you mean WALPOST_POSTGRES_SLOT?",
		"WALPOST_KAFKA_TLS_ENABLED2": "did you mean WALPOST_KAFKA_TLS_ENABLED?",
	} {
		t.Run(name, func(t *testing.T) {
			got := problems(t, nil, []string{name + "=hunter2"})
			want := []Problem{{Key: name, Text: "unknown environment variable", Hint: want}}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestFlagError(t *testing.T) {
	flags := pflag.NewFlagSet("walpost", pflag.ContinueOnError)
	AddFlags(flags)
	for _, test := range []struct {
		arg  string
		want Problem
	}{
		{"--postgres.slto=x", Problem{Key: "--postgres.slto", Text: "unknown flag", Hint: "did you mean --postgres.slot?"}},
		{"--broker=x", Problem{Key: "--broker", Text: "unknown flag", Hint: "did you mean --brokers?"}},
		{"--zzz", Problem{Key: "--zzz", Text: "unknown flag"}},
		{"-x", Problem{Text: "unknown shorthand flag: 'x' in -x"}},
		{"--slot", Problem{Text: "flag needs an argument: --slot"}},
	} {
		t.Run(test.arg, func(t *testing.T) {
			var e *Error
			if !errors.As(FlagError(flags, []string{test.arg}, flags.Parse([]string{test.arg})), &e) {
				t.Fatal("not an *Error")
			}
			if len(e.Problems) != 1 || e.Problems[0] != test.want {
				t.Errorf("got %+v, want %+v", e.Problems, test.want)
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	err := &Error{[]Problem{{"a.b", "f.yaml:3", "is wrong", "hint"}, {"--c", "", "is wrong too", ""}, {"", "f.yaml", "is not YAML", ""}}}
	if got, want := err.Error(), "f.yaml:3: a.b: is wrong\n--c: is wrong too\nf.yaml: is not YAML"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
