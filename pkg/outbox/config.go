package outbox

import (
	"cmp"
	"errors"
	"slices"
)

// Config holds a router's settings. Column names are raw: as the catalog has
// them, without quotes.
type Config struct {
	// ID is the column of the header id. Defaults to id.
	ID string

	// Key is the column of the record's key. Defaults to aggregateid.
	Key string

	// Route is the column that names the topic. Defaults to aggregatetype.
	Route string

	// Payload is the column of the record's value. Defaults to payload.
	Payload string

	// Timestamp is the column of the record's time, a timestamp (read as
	// UTC) or timestamptz. None by default: the time is the commit's, as it
	// is where the column is NULL.
	Timestamp string

	// Place lists further columns in Debezium's syntax:
	// column:header[:alias], column:envelope[:alias] or column:partition. None by
	// default. With an envelope the value is an object of the payload and the columns
	// that are placed there, which ValueFormat must be JSON for.
	Place []string

	// MissingIgnored leaves placed columns out that a table does not have. By default
	// each of its rows is poison.
	MissingIgnored bool

	// Topic is the topic, in which ${name} and $1 stand for what the groups
	// of RouteRegex matched, and a backslash makes the next character
	// literal. Defaults to outbox.event.${routedByValue}.
	Topic string

	// RouteRegex is matched with the whole of the route column's value. If
	// it does not match, the value is the topic; if it does, the topic is
	// the value with the first match replaced by Topic, which is searched
	// anew as Debezium does. Defaults to (?<routedByValue>.*).
	RouteRegex string

	// KeyFormat and ValueFormat default to FormatRaw.
	KeyFormat, ValueFormat Format

	// ExpandJSON writes a payload that is text with a JSON object or array as that, and
	// not as a string. ValueFormat must be JSON. With schemas each document has one of its
	// own, and one that Kafka Connect has no schema for stays a string.
	ExpandJSON bool

	// TombstoneOnEmpty writes a null value for a payload that is NULL or blank.
	TombstoneOnEmpty bool

	// SchemaName begins the name of an envelope's schema, as Debezium's topic.prefix
	// does: <name>.<schema>.<table>.<route>.Value. Defaults to walpost.
	SchemaName string

	// SchemaVersion is the column of the version of an envelope's schema, an integer.
	// None by default.
	SchemaVersion string

	// CloudEvents adds the headers of CloudEvents 1.0 in binary mode, behind those that are
	// placed: ce_type is the column type, ce_time the record's time.
	CloudEvents bool

	// CloudEventsSource is ce_source. Defaults to /schema/table.
	CloudEventsSource string

	// PositionHeaders adds two headers behind all others: walpost-lsn, the LSN
	// of the transaction's commit as Postgres prints it, and walpost-seq, the
	// event's ordinal in it. Both are the same each time that the event is
	// delivered.
	PositionHeaders bool
}

func (c Config) withDefaults() Config {
	c.ID = cmp.Or(c.ID, DefaultID)
	c.Key = cmp.Or(c.Key, DefaultKey)
	c.Route = cmp.Or(c.Route, DefaultRoute)
	c.Payload = cmp.Or(c.Payload, DefaultPayload)
	c.Topic = cmp.Or(c.Topic, DefaultTopic)
	c.RouteRegex = cmp.Or(c.RouteRegex, DefaultRouteRegex)
	c.KeyFormat, c.ValueFormat = cmp.Or(c.KeyFormat, FormatRaw), cmp.Or(c.ValueFormat, FormatRaw)
	c.SchemaName = cmp.Or(c.SchemaName, DefaultSchemaName)
	return c
}

// settings is a Config that was found good.
type settings struct {
	Config
	places []placement
	topics *topics
}

// validate joins all problems, each of which names its setting.
func (c Config) validate() (settings, error) {
	s := settings{Config: c}
	places, placeErrs := parsePlacements(c.Place)
	topics, topicErr := newTopics(c.RouteRegex, c.Topic)
	s.places, s.topics = places, topics
	return s, errors.Join(append(placeErrs, topicErr, c.KeyFormat.check("key_format"), c.ValueFormat.check("value_format"), s.checkEnvelope())...)
}

// checkEnvelope refuses what only a value in JSON can be.
func (s *settings) checkEnvelope() error {
	envelope := slices.ContainsFunc(s.places, func(p placement) bool { return p.envelope })
	switch {
	case envelope && !s.ValueFormat.isJSON():
		return problem("place", "set outbox.value_format to json or json-schema, or place the column in a header",
			"an envelope needs a value in JSON, and outbox.value_format is %s", s.ValueFormat)
	case s.ExpandJSON && !s.ValueFormat.isJSON():
		return problem("expand_json", "set outbox.value_format to json or json-schema",
			"only a value in JSON can hold it, and outbox.value_format is %s", s.ValueFormat)
	case s.SchemaVersion != "" && (!envelope || s.ValueFormat != FormatJSONSchema):
		return problem("schema_version", "leave it out",
			"only an envelope in json-schema has a schema with a version")
	}
	return nil
}
