package config

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

const (
	stringConverter = "org.apache.kafka.connect.storage.StringConverter"
	jsonConverter   = "org.apache.kafka.connect.json.JsonConverter"
)

// routerOptions are the router's options whose values walpost takes as they are.
var routerOptions = map[string]string{
	"table.field.event.id":              "outbox.id",
	"table.field.event.key":             "outbox.key",
	"table.field.event.payload":         "outbox.payload",
	"table.field.event.timestamp":       "outbox.timestamp",
	"table.field.event.schema.version":  "outbox.schema_version",
	"table.fields.additional.placement": "outbox.place",
	"table.field.additional.missing":    "outbox.place_missing",
	"table.expand.json.payload":         "outbox.expand_json",
	"route.tombstone.on.empty.payload":  "outbox.tombstone_on_empty",
	"route.by.field":                    "outbox.route",
	"route.topic.regex":                 "outbox.route_regex",
	"route.topic.replacement":           "outbox.topic",
}

// router translates the options of the transformation.
func (t *translator) router() {
	for option, key := range routerOptions {
		t.move(t.prefix+option, key)
	}
	if policy, ok := t.take(t.prefix + "table.fields.additional.error.on.missing"); ok && policy == "false" {
		t.values["outbox.place_missing"] = string(PlaceMissingIgnore)
	}
	switch policy, _ := t.take(t.prefix + "table.op.invalid.behavior"); policy {
	case "fatal":
		t.values["outbox.update"] = string(UpdateStop)
	case "", "warn", "error":
	}
	if field, ok := t.take(t.prefix + "tracing.span.context.field"); ok {
		t.note("tracing.span.context.field=%s: place the column in a header: outbox.place: [%s:header]", field, field)
	}
	if behaviour, ok := t.take(t.prefix + "table.json.payload.null.behavior"); ok && behaviour == "ignore" || t.values["outbox.expand_json"] == "true" && behaviour != "optional_bytes" {
		t.comment("outbox.expand_json", "Nulls and empty arrays in the payload stay: Debezium leaves them out.")
	}
	if prefix, ok := t.take("topic.prefix"); ok && strings.Contains(strings.ToLower(t.values["outbox.place"]), "envelope") {
		t.values["outbox.schema_name"] = prefix
	}
	for option, value := range t.options {
		if rest, ok := strings.CutPrefix(option, t.prefix); ok {
			delete(t.options, option)
			if !strings.HasPrefix(rest, "tracing.") {
				t.warn("%s=%s: the router has no such option, and ignores it", option, value)
			}
		}
	}
}

// converters translates the converters of keys, values and headers.
func (t *translator) converters() {
	for side, key := range map[string]string{"key": "outbox.key_format", "value": "outbox.value_format"} {
		class, ok := t.take(side + ".converter")
		schemas, _ := t.take(side + ".converter.schemas.enable")
		switch {
		case !ok:
			t.warn("%s.converter is not in the file: the worker's own was in force, and %s must say the same; raw is a StringConverter", side, key)
		case class == stringConverter:
			t.values[key] = string(FormatRaw)
		case class == jsonConverter && schemas == "false":
			t.values[key] = string(FormatJSON)
		case class == jsonConverter:
			t.values[key] = string(FormatJSONSchema)
		case strings.HasSuffix(class, ".BinaryDataConverter"), strings.HasSuffix(class, ".ByteArrayConverter"), strings.HasSuffix(class, ".ByteBufferConverter"):
			t.values[key] = string(FormatBinary)
		default:
			t.warn("%s.converter=%s has no counterpart", side, class)
		}
		for option := range t.options {
			if strings.HasPrefix(option, side+".converter.") {
				delete(t.options, option)
			}
		}
	}
	if class, ok := t.take("header.converter"); ok && !strings.HasSuffix(class, ".SimpleHeaderConverter") {
		t.warn("header.converter=%s: walpost writes headers as SimpleHeaderConverter does, which differs for other types than text", class)
	}
}

// producer translates what the producer was told.
func (t *translator) producer() {
	const override = "producer.override."
	t.move(override+"bootstrap.servers", "kafka.brokers")
	t.move(override+"compression.type", "kafka.compression")
	if ms, ok := t.take(override + "linger.ms"); ok {
		t.values["kafka.linger"] = ms + "ms"
	}
	t.move(override+"max.request.size", "kafka.max_message_bytes")
	if acks, ok := t.take(override + "acks"); ok && acks != "all" && acks != "-1" {
		t.warn("acks=%s could lose events that were taken for delivered; walpost always waits for all in-sync replicas", acks)
	}
	if idempotent, _ := t.take(override + "enable.idempotence"); idempotent == "false" {
		t.warn("enable.idempotence=false could repeat and reorder events; walpost's producer is always idempotent")
	}
	if _, ok := t.values["kafka.brokers"]; !ok {
		t.values["kafka.brokers"] = "localhost:9092"
		t.comment("kafka.brokers", "The brokers are in the worker's configuration, and not in the connector's.")
	}
	for option := range t.options {
		if !strings.HasPrefix(option, override) {
			continue
		}
		value, _ := t.take(option)
		switch rest := strings.TrimPrefix(option, override); {
		case strings.HasPrefix(rest, "sasl."), strings.HasPrefix(rest, "ssl."), rest == "security.protocol":
			t.note("%s: see kafka.sasl and kafka.tls", option) // its value may be a secret
		default:
			t.note("%s=%s has no counterpart, and needs none", option, value)
		}
	}
}

// differently is what behaves in another way, by option: text for all values but one.
var differently = map[string]struct{ usual, text string }{
	"decimal.handling.mode":    {"precise", "placed numerics are written as with precise"},
	"time.precision.mode":      {"adaptive", "placed dates and times are written as with adaptive"},
	"binary.handling.mode":     {"bytes", "bytea is written as bytes, or in base64 in JSON"},
	"interval.handling.mode":   {"numeric", "placed intervals are written as with numeric"},
	"hstore.handling.mode":     {"json", "placed hstore values are written as Postgres prints them"},
	"skipped.operations":       {"t", "inserts are published, whatever this says"},
	"extended.headers.enabled": {"false", "Debezium added __debezium.context.* headers, which name its connector and task; walpost does not"},
	"errors.tolerance":         {"none", "records that could not be sent were dropped; walpost stops, or with delivery.poison: dead-letter keeps them in a topic"},
	"table.exclude.list":       {"", "only the tables of outbox.table are read"},
	"schema.include.list":      {"", "only the tables of outbox.table are read"},
	"column.exclude.list":      {"", "columns are those of the publication: give it a column list"},
	"column.include.list":      {"", "columns are those of the publication: give it a column list"},
	"message.key.columns":      {"", "the key is outbox.key"},
}

// unneeded begin the options that have no counterpart and need none.
var unneeded = []string{
	"connector.class", "name", "tasks.max", "max.", "poll.interval.ms", "heartbeat.", "offset.", "retriable.", "errors.", "slot.max.retries",
	"slot.retry.delay.ms", "slot.stream.params", "tombstones.on.delete", "provide.transaction.metadata", "statistics.", "internal.", "notification.", "signal.", "incremental.",
	"snapshot.", "include.unknown.datatypes", "schema.", "xmin.", "replica.", "database.", "event.", "topic.", "flush.", "custom.", "unavailable.value.placeholder",
	"predicates", "streaming.", "read.only", "money.", "publish.via.partition.root", "lsn.", "status.", "config.", "openlineage.", "quarkus.", "debezium.", "field.", "sourceinfo.",
}

// snapshots says what of snapshot.mode is to be done by hand: walpost goes on from the slot.
func (t *translator) snapshots() {
	mode, _ := t.take("snapshot.mode")
	mode = cmp.Or(mode, "initial")
	switch mode {
	case "no_data", "never", "schema_only", "recovery":
	case "initial", "when_needed", "configuration_based":
		t.note("snapshot.mode=%s: what Debezium has published of the rows that are older than the slot is not published again; of a connector that has never run, set snapshot to initial and let walpost run make a slot of its own", mode)
	case "always":
		t.note("snapshot.mode=always: walpost publishes older rows once, with snapshot: initial, and not at each start; walpost replay --source table publishes them again")
	case "initial_only":
		t.note("snapshot.mode=initial_only: walpost goes on with what comes after; walpost replay --source table publishes rows and ends")
	default:
		t.note("snapshot.mode=%s: not known; walpost publishes the rows that are older than the slot with snapshot: initial", mode)
	}
	if value, given := t.take("snapshot.select.statement.overrides"); given {
		t.note("snapshot.select.statement.overrides=%s: a snapshot has all rows that the publication's row filter lets through", value)
	}
}

// rest says what becomes of all other options.
func (t *translator) rest() {
	t.snapshots()
	for option, d := range differently {
		value, ok := t.take(option)
		if !ok && option == "extended.headers.enabled" {
			value = "true"
		}
		if ok && value != d.usual || !ok && option == "extended.headers.enabled" {
			t.note("%s=%s: %s", option, value, d.text)
		}
	}
	for _, option := range slices.Sorted(maps.Keys(t.options)) {
		if !slices.ContainsFunc(unneeded, func(p string) bool { return strings.HasPrefix(option, p) }) {
			t.warn("%s is not an option that is known here: look at what it did", option)
		}
	}
	slices.Sort(t.notes)
	slices.Sort(t.warnings)
}

// parseProperties reads a file of Java properties.
// https://docs.oracle.com/en/java/javase/17/docs/api/java.base/java/util/Properties.html#load(java.io.Reader)
func parseProperties(text string) map[string]string {
	options := map[string]string{}
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := strings.TrimLeft(lines[i], " \t\f")
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		for endsInBackslash(line) && i+1 < len(lines) {
			i++
			line = line[:len(line)-1] + strings.TrimLeft(lines[i], " \t\f")
		}
		name, value := splitProperty(line)
		options[unescapeProperty(name)] = unescapeProperty(value)
	}
	return options
}

// endsInBackslash reports whether a line goes on: an odd number of backslashes ends it.
func endsInBackslash(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

// splitProperty splits at the first =, : or white space that has no backslash before it.
func splitProperty(line string) (name, value string) {
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '\\':
			i++
		case '=', ':', ' ', '\t':
			rest := strings.TrimLeft(line[i:], " \t\f")
			if rest != "" && (rest[0] == '=' || rest[0] == ':') {
				rest = strings.TrimLeft(rest[1:], " \t\f")
			}
			return line[:i], rest
		}
	}
	return line, ""
}

var propertyEscapes = strings.NewReplacer(`\\`, `\`, `\t`, "\t", `\n`, "\n", `\r`, "\r", `\f`, "\f", `\=`, "=", `\:`, ":", `\ `, " ", `\#`, "#", `\!`, "!")

func unescapeProperty(s string) string { return propertyEscapes.Replace(s) }
