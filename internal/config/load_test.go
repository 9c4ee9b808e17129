package config

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// load runs Load like a command does.
func load(t *testing.T, args, environ []string) (Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("walpost", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatalf("parse flags: %v", err)
	}
	return Load(flags, environ)
}

func mustLoad(t *testing.T, args, environ []string) Config {
	t.Helper()
	c, err := load(t, args, environ)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return c
}

// problems loads what must fail and returns why.
func problems(t *testing.T, args, environ []string) []Problem {
	t.Helper()
	c, err := load(t, args, environ)
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("Load: got error %v, want an *Error", err)
	}
	if !reflect.DeepEqual(c, Config{}) {
		t.Errorf("Load: got a configuration beside the error")
	}
	return e.Problems
}

// write makes a file of text in a folder of the test's own.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// plain is c without what it was made from.
func plain(c Config) Config {
	c.effective, c.text = nil, nil
	return c
}

func valueOf(t *testing.T, c Config, key string) Value {
	t.Helper()
	for _, v := range c.Effective() {
		if v.Key == key {
			return v
		}
	}
	t.Fatalf("%s is not in the effective configuration", key)
	return Value{}
}

func TestDefaults(t *testing.T) {
	want := Config{
		Postgres: Postgres{
			Publication: "walpost", Slot: "walpost", CreateSlot: true, Failover: FailoverAuto,
			StatusInterval: 5 * time.Second, PullAbove: 32 << 20, WaitForSlot: true,
		},
		Outbox: Outbox{
			Tables: []Table{{"public", "outbox"}}, ID: "id", Key: "aggregateid", Route: "aggregatetype", Payload: "payload",
			Topic: "outbox.event.${routedByValue}", RouteRegex: "(?<routedByValue>.*)", PlaceMissing: PlaceMissingError, Update: UpdateWarn,
			KeyFormat: FormatRaw, ValueFormat: FormatRaw, SchemaName: "walpost", Headers: HeadersDebezium,
		},
		Kafka: Kafka{Brokers: []string{"localhost:9092"}, Compression: CompressionLZ4, TransactionTimeout: time.Minute},
		Delivery: Delivery{
			Guarantee: AtLeastOnce, MaxInFlightBytes: 6 << 20, MaxUnconfirmedEvents: 1000000, MaxTxMemory: 8 << 20,
			Poison: PoisonStop, MaxDeadLetters: 10_000, MaxParkedEvents: 1_000_000, Retry: Retry{100 * time.Millisecond, 30 * time.Second}, DrainTimeout: 10 * time.Second,
		},
		Checkpoint: Checkpoint{Store: StorePostgres, Interval: time.Second},
		Snapshot:   SnapshotNone,
		Replay:     Replay{MaxBytes: 10 << 30},
		Admin:      Admin{Listen: "127.0.0.1:9187", MaxLag: 30 * time.Second},
		Log:        Log{Format: LogText},
	}
	c, err := Load(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := plain(c); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPrecedence(t *testing.T) {
	fromFile := "--config=" + write(t, "walpost.yaml", "postgres:\n  slot: from_file\n")
	fromEnv := "WALPOST_POSTGRES_SLOT=from_env"
	for _, test := range []struct {
		name          string
		args, environ []string
		want          string
		source        Source
	}{
		{"default", nil, nil, "walpost", SourceDefault},
		{"file over default", []string{fromFile}, nil, "from_file", SourceFile},
		{"environment over file", []string{fromFile}, []string{fromEnv}, "from_env", SourceEnvironment},
		{"flag over environment", []string{fromFile, "--postgres.slot=from_flag"}, []string{fromEnv}, "from_flag", SourceFlag},
		{"short flag over environment", []string{fromFile, "--slot=short"}, []string{fromEnv}, "short", SourceFlag},
		{"flag with the default's text", []string{fromFile, "--slot=walpost"}, []string{fromEnv}, "walpost", SourceFlag},
		{"file named by the environment", nil, []string{"WALPOST_CONFIG=" + fromFile[len("--config="):]}, "from_file", SourceFile},
		{"file named by flag over environment", []string{fromFile}, []string{"WALPOST_CONFIG=/nowhere"}, "from_file", SourceFile},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustLoad(t, test.args, test.environ)
			if got := c.Postgres.Slot; got != test.want {
				t.Errorf("slot: got %q, want %q", got, test.want)
			}
			if got := valueOf(t, c, "postgres.slot").Source; got != test.source {
				t.Errorf("source: got %q, want %q", got, test.source)
			}
		})
	}
}

func TestEmptyOverridesDefault(t *testing.T) {
	for name, args := range map[string][]string{
		"flag": {"--admin.listen="},
		"file": {"--config=" + write(t, "walpost.yaml", `admin: {listen: ""}`)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustLoad(t, args, nil).Admin.Listen; got != "" {
				t.Errorf("admin.listen: got %q, want none", got)
			}
		})
	}
}

// sample is a value other than the default, and what it cannot be without.
type sample struct {
	text string
	with []string // key=value
}

func samples(t *testing.T) map[string]sample {
	there := write(t, "there", "secret text\n")
	tls := []string{"kafka.tls.enabled=true"}
	scram := []string{"kafka.sasl.mechanism=SCRAM-SHA-256", "kafka.sasl.username=u", "kafka.sasl.password=p"}
	registry := []string{"kafka.schema_registry.url=https://registry:8081", "kafka.schema_registry.username=me", "kafka.schema_registry.password=p"}
	return map[string]sample{
		"postgres.dsn":              {text: "postgres://me@db:5433/orders"},
		"postgres.dsn_file":         {text: write(t, "dsn", "host=db\n")},
		"postgres.password_file":    {text: there},
		"postgres.publication":      {text: "Orders, and more"},
		"postgres.slot":             {text: "0123"},
		"postgres.shard":            {text: "1/3"},
		"postgres.create_slot":      {text: "false"},
		"postgres.failover":         {text: "true"},
		"postgres.status_interval":  {text: "1m30s"},
		"postgres.pull_above":       {text: "1MiB"},
		"postgres.wait_for_slot":    {text: "false"},
		"outbox.table":              {text: `app.events,"My,Schema"."Out""box"`},
		"outbox.id":                 {text: "event_id"},
		"outbox.key":                {text: "Key"},
		"outbox.route":              {text: "kind"},
		"outbox.payload":            {text: "body"},
		"outbox.timestamp":          {text: "at"},
		"outbox.place":              {text: "type:header:eventType,part:partition"},
		"outbox.topic":              {text: "events.$1"},
		"outbox.route_regex":        {text: "(a|b), #c: {}"},
		"outbox.position_headers":   {text: "true"},
		"outbox.place_missing":      {text: "ignore"},
		"outbox.key_format":         {text: "json-schema"},
		"outbox.value_format":       {text: "json"},
		"outbox.expand_json":        {text: "true"},
		"outbox.tombstone_on_empty": {text: "true"},
		"outbox.schema_name":        {text: "dbz"},
		"outbox.schema_version":     {text: "Vers ion"},
		"outbox.headers":            {text: "CloudEvents"},
		"outbox.cloudevents_source": {text: "/shop"},
		"messages.prefix":           {text: "events"},
		"snapshot":                  {text: "initial"}, "outbox.update": {text: "Stop"},
		"outbox.order_by":                     {text: "created_at", with: []string{"snapshot=initial"}},
		"purge.archive_bucket":                {text: "s3://archive/out", with: []string{"purge.archive=ndjson", "purge.archive_dir=" + filepath.Dir(there)}},
		"kafka.brokers":                       {text: "one:9092,two"},
		"kafka.compression":                   {text: "zstd"},
		"kafka.linger":                        {text: "5ms"},
		"kafka.max_message_bytes":             {text: "2MB"},
		"kafka.create_topics":                 {text: "true"},
		"kafka.partitions":                    {text: "12"},
		"kafka.replication_factor":            {text: "3"},
		"kafka.transaction_timeout":           {text: "90s", with: []string{"delivery.guarantee=exactly-once"}},
		"kafka.tls.enabled":                   {text: "true"},
		"kafka.tls.ca_file":                   {text: there, with: tls},
		"kafka.tls.cert_file":                 {text: there, with: append(tls, "kafka.tls.key_file="+there)},
		"kafka.tls.key_file":                  {text: there, with: append(tls, "kafka.tls.cert_file="+there)},
		"kafka.tls.server_name":               {text: "kafka.example", with: tls},
		"kafka.tls.insecure_skip_verify":      {text: "true", with: tls},
		"kafka.sasl.mechanism":                {text: "SCRAM-SHA-512", with: scram[1:]},
		"kafka.sasl.username":                 {text: "null", with: scram},
		"kafka.sasl.password":                 {text: "pa,ss: #w", with: scram},
		"kafka.sasl.password_file":            {text: there, with: scram[:2]},
		"kafka.sasl.token":                    {text: "t", with: []string{"kafka.sasl.mechanism=OAUTHBEARER"}},
		"kafka.sasl.token_file":               {text: there, with: []string{"kafka.sasl.mechanism=OAUTHBEARER"}},
		"kafka.schema_registry.url":           {text: registry[0][len("kafka.schema_registry.url="):], with: registry[1:]},
		"kafka.schema_registry.username":      {text: "me", with: registry},
		"kafka.schema_registry.password":      {text: "p", with: registry},
		"kafka.schema_registry.password_file": {text: there, with: registry[:2]},
		"delivery.guarantee":                  {text: "EXACTLY-ONCE"},
		"delivery.max_in_flight_bytes":        {text: "1048576"},
		"delivery.max_unconfirmed_events":     {text: "17"},
		"delivery.max_dead_letters":           {text: "17"},
		"delivery.max_parked_events":          {text: "18"},
		"delivery.max_tx_memory":              {text: "64KiB"},
		"delivery.spill_dir":                  {text: filepath.Dir(there)},
		"delivery.poison":                     {text: "Dead-Letter"},
		"delivery.dead_letter_topic":          {text: "a.B_c-9"},
		"delivery.retry.initial":              {text: "1s"},
		"delivery.retry.max":                  {text: "1m"},
		"delivery.drain_timeout":              {text: "3s"},
		"checkpoint.store":                    {text: "slot"},
		"checkpoint.file":                     {text: filepath.Join(filepath.Dir(there), "new"), with: []string{"checkpoint.store=file"}},
		"checkpoint.topic":                    {text: "t"},
		"checkpoint.interval":                 {text: "250ms"},
		"replay.window":                       {text: "36h"},
		"replay.max_bytes":                    {text: "1GiB"},
		"purge.older_than":                    {text: "7d12h"},
		"purge.archive":                       {text: "ndjson", with: []string{"purge.archive_dir=" + filepath.Dir(there)}},
		"purge.archive_dir":                   {text: filepath.Dir(there), with: []string{"purge.archive=ndjson"}},
		"admin.listen":                        {text: ":80"},
		"admin.max_lag":                       {text: "5m"},
		"admin.token_file":                    {text: there},
		"log.level":                           {text: "DEBUG"},
		"log.format":                          {text: "json"},
	}
}

func TestEverySettingFromEverySource(t *testing.T) {
	samples := samples(t)
	for i := range settings {
		s := &settings[i]
		t.Run(s.Key, func(t *testing.T) {
			sample, ok := samples[s.Key]
			if !ok {
				t.Fatal("no sample")
			}
			var with []string
			for _, kv := range sample.with {
				key, value, _ := strings.Cut(kv, "=")
				if key != s.Key {
					with = append(with, settingOf(key).env()+"="+value)
				}
			}
			environ := append(slices.Clone(with), s.env()+"="+sample.text)
			file := write(t, "walpost.yaml", s.Key+": '"+strings.ReplaceAll(sample.text, "'", "''")+"'")
			got := map[Source]Config{
				SourceFlag:        mustLoad(t, []string{"--" + s.Key + "=" + sample.text}, with),
				SourceEnvironment: mustLoad(t, nil, environ),
				SourceFile:        mustLoad(t, []string{"--config=" + file}, with),
			}
			for source, c := range got {
				if v := valueOf(t, c, s.Key); v.Source != source || s.kind != kindSecret && v.Text != sample.text {
					t.Errorf("effective: got %s from %s, want %s from %s", v.Text, v.Source, sample.text, source)
				}
				if !reflect.DeepEqual(plain(c), plain(got[SourceFlag])) {
					t.Errorf("from %s: got %+v, from flag %+v", source, plain(c), plain(got[SourceFlag]))
				}
			}
			without, err := load(t, nil, with)
			if err == nil && reflect.DeepEqual(plain(without), plain(got[SourceFlag])) {
				t.Errorf("%s changed nothing", sample.text)
			}
		})
		delete(samples, s.Key)
	}
	if len(samples) > 0 {
		t.Errorf("samples without a setting: %v", slices.Collect(maps.Keys(samples)))
	}
}

func TestLists(t *testing.T) {
	want := []string{"a:1", "b:2", "c"}
	for name, args := range map[string][]string{
		"flag":          {"--brokers=a:1, b:2,c"},
		"repeated flag": {"--kafka.brokers=a:1", "--kafka.brokers=b:2,c"},
		"YAML list":     {"--config=" + write(t, "1.yaml", "kafka:\n  brokers:\n  - a:1\n  - b:2\n  - c\n")},
		"YAML text":     {"--config=" + write(t, "2.yaml", "kafka: {brokers: 'a:1,b:2,c'}")},
		"both":          {"--config=" + write(t, "3.yaml", "kafka: {brokers: ['a:1,b:2', c]}")},
		"dots":          {"--config=" + write(t, "4.yaml", "kafka.brokers: [a:1, b:2, c]")},
		"alias":         {"--config=" + write(t, "5.yaml", "outbox.topic: &x a:1,b:2,c\nkafka.brokers: *x")},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mustLoad(t, args, nil).Kafka.Brokers; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestTables(t *testing.T) {
	c := mustLoad(t, []string{`--outbox.table=Public.Outbox, "a,b"."C""d",x."y.z"`}, nil)
	want := []Table{{"public", "outbox"}, {"a,b", `C"d`}, {"x", "y.z"}}
	if got := c.Outbox.Tables; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := c.Outbox.Tables[1].String(), `"a,b"."C""d"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBoolFlagNeedsNoValue(t *testing.T) {
	if c := mustLoad(t, []string{"--kafka.create_topics"}, nil); !c.Kafka.CreateTopics {
		t.Error("kafka.create_topics is false")
	}
}

func TestNullIsUnset(t *testing.T) {
	path := write(t, "walpost.yaml", "postgres:\n  slot:\n  publication: ~\nkafka:\nlog: null\n")
	c := mustLoad(t, []string{"--config=" + path}, nil)
	if got := valueOf(t, c, "postgres.slot"); got.Text != "walpost" || got.Source != SourceDefault {
		t.Errorf("got %s from %s, want the default", got.Text, got.Source)
	}
}

func TestEmptyFile(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n"} {
		mustLoad(t, []string{"--config=" + write(t, "walpost.yaml", text)}, nil)
	}
}

func TestEnvironmentNamesAreUnique(t *testing.T) {
	seen := map[string]string{}
	for i := range settings {
		name := settings[i].env()
		if other := seen[name]; other != "" {
			t.Errorf("%s is %s and %s", name, other, settings[i].Key)
		}
		if foreignVariable(name) {
			t.Errorf("%s would be ignored", name)
		}
		seen[name] = settings[i].Key
	}
	if seen["WALPOST_KAFKA_SASL_USERNAME"] != "kafka.sasl.username" {
		t.Error("WALPOST_KAFKA_SASL_USERNAME is not kafka.sasl.username")
	}
}

func TestForeignVariables(t *testing.T) {
	mustLoad(t, nil, []string{
		"PATH=/bin", "POSTGRES_DSN=x", "WALPOST_TEST_POSTGRES=x", "WALPOST_TEST_", "WALPOST_CONFIG=",
		"WALPOST_SERVICE_HOST=10.0.0.1", "WALPOST_SERVICE_PORT=9187", "WALPOST_SERVICE_PORT_METRICS=9187",
		"WALPOST_PORT=tcp://10.0.0.1:9187", "WALPOST_PORT_9187_TCP=tcp://10.0.0.1:9187", "WALPOST_PORT_9187_TCP_PROTO=tcp",
		"WALPOST_PORT_9187_TCP_PORT=9187", "WALPOST_PORT_9187_TCP_ADDR=10.0.0.1", "WALPOST_METRICS_SERVICE_HOST=10.0.0.1",
		"WALPOST_METRICS_PORT_9187_TCP=tcp://10.0.0.1:9187",
	})
}

func TestMountedSecrets(t *testing.T) {
	args := []string{
		"--postgres.dsn_file", write(t, "dsn", "host=db user=me\n"),
		"--postgres.password_file", write(t, "pgpass", "two words\r\n"),
		"--kafka.sasl.mechanism=PLAIN", "--kafka.sasl.username=me",
		"--kafka.sasl.password_file", write(t, "password", " spaced \n"),
	}
	c := mustLoad(t, args, nil)
	if got, want := c.Postgres.ConnString(), "host=db user=me password='two words'"; got != want {
		t.Errorf("connection string: got %q, want %q", got, want)
	}
	if got, want := string(c.Kafka.SASL.Password), " spaced "; got != want {
		t.Errorf("password: got %q, want %q", got, want)
	}
}

func TestTokenFileIsLeftToTheSink(t *testing.T) {
	path := write(t, "token", "t")
	c := mustLoad(t, []string{"--kafka.sasl.mechanism=oauthbearer", "--kafka.sasl.token_file", path}, nil)
	if got, want := c.Kafka.SASL, (SASL{Mechanism: MechanismOAuthBearer, TokenFile: path}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
