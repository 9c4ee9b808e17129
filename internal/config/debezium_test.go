package config

import (
	"reflect"
	"strings"
	"testing"
)

// The same connector in the three forms that there are.
const (
	debeziumREST = `{"name": "outbox", "config": {
		"connector.class": "io.debezium.connector.postgresql.PostgresConnector", "plugin.name": "pgoutput",
		"database.hostname": "db", "database.port": 5432, "database.user": "relay", "database.password": "s3cr3t", "database.dbname": "shop", "database.sslmode": "require",
		"topic.prefix": "dbz", "slot.name": "orders", "publication.name": "pub", "publication.autocreate.mode": "disabled",
		"table.include.list": "public\\.outbox", "snapshot.mode": "no_data", "extended.headers.enabled": false,
		"transforms": "outbox", "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
		"transforms.outbox.table.fields.additional.placement": "type:header:eventType", "transforms.outbox.route.topic.replacement": "evt.${routedByValue}",
		"transforms.outbox.route.tombstone.on.empty.payload": true,
		"key.converter": "org.apache.kafka.connect.storage.StringConverter",
		"value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false",
		"producer.override.linger.ms": "5", "producer.override.compression.type": "zstd"}}`

	debeziumProperties = `# a connector
connector.class=io.debezium.connector.postgresql.PostgresConnector
plugin.name = pgoutput
database.hostname: db
database.port 5432
database.user=relay
database.password=s3cr3t
database.dbname=shop
database.sslmode=require
topic.prefix=dbz
slot.name=orders
publication.name=pub
publication.autocreate.mode=disabled
table.include.list=public\\.outbox
snapshot.mode=no_data
extended.headers.enabled=false
transforms=outbox
transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
transforms.outbox.table.fields.additional.placement=type:header\
   :eventType
transforms.outbox.route.topic.replacement=evt.${routedByValue}
transforms.outbox.route.tombstone.on.empty.payload=true
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
value.converter.schemas.enable=false
producer.override.linger.ms=5
producer.override.compression.type=zstd
`

	debeziumServer = `debezium.source.connector.class=io.debezium.connector.postgresql.PostgresConnector
debezium.source.plugin.name=pgoutput
debezium.source.database.hostname=db
debezium.source.database.port=5432
debezium.source.database.user=relay
debezium.source.database.password=s3cr3t
debezium.source.database.dbname=shop
debezium.source.database.sslmode=require
debezium.source.topic.prefix=dbz
debezium.source.slot.name=orders
debezium.source.publication.name=pub
debezium.source.publication.autocreate.mode=disabled
debezium.source.table.include.list=public\\.outbox
debezium.source.snapshot.mode=no_data
debezium.source.extended.headers.enabled=false
debezium.source.offset.storage.file.filename=data/offsets.dat
debezium.transforms=outbox
debezium.transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
debezium.transforms.outbox.table.fields.additional.placement=type:header:eventType
debezium.transforms.outbox.route.topic.replacement=evt.$${routedByValue}
debezium.transforms.outbox.route.tombstone.on.empty.payload=true
debezium.format.key=simplestring
debezium.format.value=json
debezium.format.value.schemas.enable=false
debezium.sink.type=kafka
debezium.sink.kafka.producer.linger.ms=5
debezium.sink.kafka.producer.compression.type=zstd
quarkus.log.level=INFO
`
)

func translated(t *testing.T, text string) Translation {
	t.Helper()
	tr, err := FromDebezium([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// What is made of a connector is loaded as it is meant, whatever form it had.
func TestFromDebezium(t *testing.T) {
	var first Config
	for _, text := range []string{debeziumREST, debeziumProperties, debeziumServer} {
		tr := translated(t, text)
		if strings.Contains(string(tr.YAML), "s3cr3t") {
			t.Error("the password was copied")
		}
		c := mustLoad(t, []string{"--config", write(t, "walpost.yaml", string(tr.YAML))}, nil)
		c.effective, c.text = nil, nil
		if first.Outbox.Topic == "" {
			first = c
			o := c.Outbox
			if c.Postgres.DSN != "postgres://relay@db:5432/shop?sslmode=require" || c.Postgres.Slot != "orders" || c.Postgres.Publication != "pub" ||
				o.Topic != "evt.${routedByValue}" || !reflect.DeepEqual(o.Place, []string{"type:header:eventType"}) || !o.TombstoneOnEmpty ||
				o.KeyFormat != FormatRaw || o.ValueFormat != FormatJSON || c.Kafka.Linger.Milliseconds() != 5 || c.Kafka.Compression != CompressionZstd {
				t.Errorf("translated to\n%s", tr.YAML)
			}
		}
		if !reflect.DeepEqual(c, first) {
			t.Errorf("another form of the same is translated to\n%s", tr.YAML)
		}
		if want := []string{"database.password was not copied: set postgres.password_file"}; !reflect.DeepEqual(tr.Warnings, want) {
			t.Errorf("warnings %q, want %q", tr.Warnings, want)
		}
	}
}

// What was risky, is not known or does something else is told.
func TestFromDebeziumWarns(t *testing.T) {
	const minimal = "table.include.list=public.outbox\nplugin.name=pgoutput\ntransforms=a\ntransforms.a.type=io.debezium.transforms.outbox.EventRouter\n" +
		"key.converter=org.apache.kafka.connect.storage.StringConverter\nvalue.converter=org.apache.kafka.connect.storage.StringConverter\n"
	if tr := translated(t, minimal); len(tr.Warnings) > 0 {
		t.Fatalf("warnings without a reason: %q", tr.Warnings)
	}
	for _, tt := range []struct{ add, want string }{
		{"producer.override.acks=1", "acks=1 could lose events"},
		{"producer.override.enable.idempotence=false", "could repeat and reorder"},
		{"slot.drop.on.stop=true", "slot.drop.on.stop=true"},
		{"plugin.name=decoderbufs", "plugin.name is not pgoutput"},
		{"value.converter=io.confluent.connect.avro.AvroConverter", "has no counterpart"},
		{"header.converter=org.apache.kafka.connect.storage.StringConverter", "header.converter"},
		{"table.include.list=public.out.*", "the pattern"},
		{"nobody.knows=1", "nobody.knows is not an option"},
		{"transforms.a.no.such=1", "the router has no such option"},
		{"transforms=a,b\ntransforms.b.type=org.example.Mask", "b (org.example.Mask) has no counterpart"},
		{"transforms.a.route.topic.replacement=", ""},
	} {
		tr := translated(t, minimal+tt.add+"\n")
		all := strings.Join(tr.Warnings, "\n")
		if !strings.Contains(all, tt.want) || tt.want == "" && all != "" {
			t.Errorf("%s: warnings %q, want %q", tt.add, tr.Warnings, tt.want)
		}
		for _, w := range tr.Warnings {
			if !strings.Contains(string(tr.YAML), "# WARNING: "+w) {
				t.Errorf("%s: the file does not say %q", tt.add, w)
			}
		}
	}
	if got := string(translated(t, minimal+"errors.tolerance=all\ndecimal.handling.mode=string\n").YAML); !strings.Contains(got, "# decimal.handling.mode=string: ") || !strings.Contains(got, "# errors.tolerance=all: ") {
		t.Errorf("what behaves in another way is not told:\n%s", got)
	}
	for _, bad := range []string{"", "{", `{"config": {"a": {}}}`, "transforms=a\ntransforms.a.type=other", `["a"]`, minimal + "connector.class=io.debezium.connector.mysql.MySqlConnector\n"} {
		if _, err := FromDebezium([]byte(bad)); err == nil {
			t.Errorf("%q is translated", bad)
		}
	}
}

func TestProperties(t *testing.T) {
	got := parseProperties("! c\n a = b \nc:d\\\n  e\nf g\nh\\ i=\\tj\\\\\nk\nurl=a=b:c\n#x=y\n")
	want := map[string]string{"a": "b ", "c": "de", "f": "g", "h i": "\tj\\", "k": "", "url": "a=b:c"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("parseProperties() = %q, want %q", got, want)
	}
}
