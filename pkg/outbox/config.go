package outbox

import (
	"cmp"
	"errors"
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
	// column:header[:alias] or column:partition. None by default.
	Place []string

	// Topic is the topic, in which ${name} and $1 stand for what the groups
	// of RouteRegex matched, and a backslash makes the next character
	// literal. Defaults to outbox.event.${routedByValue}.
	Topic string

	// RouteRegex is matched with the whole of the route column's value. If
	// it does not match, the value is the topic; if it does, the topic is
	// the value with the first match replaced by Topic, which is searched
	// anew as Debezium does. Defaults to (?<routedByValue>.*).
	RouteRegex string

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
	return s, errors.Join(append(placeErrs, topicErr)...)
}
