// Package outbox is the outbox table from all sides: the [Router] makes Kafka
// records of its rows by the rules of Debezium's outbox event router, the
// [Writer] is what a Go producer inserts them with, and the [Inbox] is what a
// consumer recognizes repeated ones with.
package outbox

// The headers of a record. A consumer recognizes an event by HeaderID.
const (
	HeaderID     = "id"             // the row's id, in Debezium's place and under its name
	HeaderReplay = "walpost-replay" // only on a record that was published again on purpose: the replay's id
	HeaderLSN    = "walpost-lsn"    // see [Config.PositionHeaders]
	HeaderSeq    = "walpost-seq"    // see [Config.PositionHeaders]
)

// The defaults for a table of the usual shape, which is Debezium's.
const (
	DefaultTable      = "public.outbox"
	DefaultID         = "id"
	DefaultKey        = "aggregateid"
	DefaultRoute      = "aggregatetype"
	DefaultPayload    = "payload"
	DefaultType       = "type"
	DefaultTopic      = "outbox.event.${routedByValue}"
	DefaultRouteRegex = "(?<routedByValue>.*)"
	DefaultSchemaName = "walpost"
)
