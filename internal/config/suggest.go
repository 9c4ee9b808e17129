package config

import (
	"regexp"
	"strings"
)

// keyHint says what an unknown key of the file may have been meant as.
func keyHint(key string) string {
	if ours := debeziumKeys[debeziumPrefix.ReplaceAllString(key, "")]; ours != "" {
		return "Debezium's " + key + " is " + ours + " here"
	}
	var known []string
	for i := range settings {
		section, _, _ := cutLast(settings[i].Key)
		known = append(known, settings[i].Key, section)
	}
	if near := nearest(key, known, "."); near != "" {
		return "did you mean " + near + "?"
	}
	return ""
}

// debeziumPrefix is what may stand before an option of the event router, in a
// connector's configuration.
var debeziumPrefix = regexp.MustCompile(`^transforms\.[^.]+\.|^(?:producer\.override|producer)\.`)

// debeziumKeys are options of Debezium's Postgres connector, of its event
// router and of Kafka's Java producer that have a counterpart.
// https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-connector-properties
// https://debezium.io/documentation/reference/stable/transformations/outbox-event-router.html#outbox-event-router-configuration-options
var debeziumKeys = map[string]string{
	"database.hostname":                 "postgres.dsn",
	"database.port":                     "postgres.dsn",
	"database.user":                     "postgres.dsn",
	"database.password":                 "postgres.dsn",
	"database.dbname":                   "postgres.dsn",
	"database.sslmode":                  "postgres.dsn",
	"slot.name":                         "postgres.slot",
	"slot.failover":                     "postgres.failover",
	"publication.name":                  "postgres.publication",
	"status.update.interval.ms":         "postgres.status_interval",
	"table.include.list":                "outbox.table",
	"table.field.event.id":              "outbox.id",
	"table.field.event.key":             "outbox.key",
	"table.field.event.payload":         "outbox.payload",
	"table.field.event.timestamp":       "outbox.timestamp",
	"table.fields.additional.placement": "outbox.place",
	"route.by.field":                    "outbox.route",
	"route.topic.regex":                 "outbox.route_regex",
	"route.topic.replacement":           "outbox.topic",
	"table.field.additional.missing":    "outbox.place_missing",
	"table.field.event.schema.version":  "outbox.schema_version",
	"table.expand.json.payload":         "outbox.expand_json",
	"route.tombstone.on.empty.payload":  "outbox.tombstone_on_empty",
	"topic.prefix":                      "outbox.schema_name",
	"key.converter":                     "outbox.key_format",
	"value.converter":                   "outbox.value_format",
	"bootstrap.servers":                 "kafka.brokers",
	"compression.type":                  "kafka.compression",
	"linger.ms":                         "kafka.linger",
	"max.request.size":                  "kafka.max_message_bytes",
	"sasl.mechanism":                    "kafka.sasl.mechanism",
}

// nearest returns the known name that name is most likely a slip of, or "" if
// none or more than one comes to mind. sep parts a name.
func nearest(name string, known []string, sep string) string {
	if only := unique(known, func(k string) bool { return strings.HasSuffix(k, sep+trimEnvPrefix(name)) }); only != "" {
		return only
	}
	if only := unique(known, func(k string) bool { return strings.HasPrefix(k, name) }); only != "" {
		return only
	}
	last := name[strings.LastIndex(name, sep)+1:]
	least, best := 2+len(last)/4, ""
	for _, k := range known {
		if d := distance(strings.ToLower(name), strings.ToLower(k)); d < least {
			least, best = d, k
		}
	}
	return best
}

func trimEnvPrefix(name string) string { return strings.TrimPrefix(name, envPrefix) }

func unique(names []string, match func(string) bool) string {
	found := ""
	for _, n := range names {
		switch {
		case n == found || !match(n):
		case found != "":
			return ""
		default:
			found = n
		}
	}
	return found
}

// distance counts the letters to insert, remove, replace or swap with their
// neighbour to make b of a.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			d := last[j]
			if a[i] != b[j] {
				d = min(d, last[j+1], row[j]) + 1
			}
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, before[j-1]+1)
			}
			row[j+1] = d
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// cutLast cuts a key before its last part.
func cutLast(key string) (section, last string, ok bool) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return key, "", false
	}
	return key[:i], key[i+1:], true
}
