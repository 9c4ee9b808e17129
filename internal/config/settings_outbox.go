package config

// outboxFormat takes what a key or a value is written as.
var outboxFormat = oneOf(FormatRaw, FormatJSON, FormatJSONSchema, FormatBinary)

// outboxSettings are those of the table, and of the records that are made of its rows.
var outboxSettings = []setting{
	{
		Key: "outbox.table", Default: "public.outbox",
		Help:  "Outbox table with its schema, quoted where SQL needs it. A list for several of one shape.",
		field: into(listOf(1, tableName), func(c *Config) *[]Table { return &c.Outbox.Tables }),
	},
	{
		Key: "outbox.id", Default: "id",
		Help:  "Column of the event's id, a column's name as it is, without quotes.",
		field: into(identifier, func(c *Config) *string { return &c.Outbox.ID }),
	},
	{
		Key: "outbox.key", Default: "aggregateid",
		Help:  "Column of the record's key.",
		field: into(identifier, func(c *Config) *string { return &c.Outbox.Key }),
	},
	{
		Key: "outbox.route", Default: "aggregatetype",
		Help:  "Column that the topic is made from.",
		field: into(identifier, func(c *Config) *string { return &c.Outbox.Route }),
	},
	{
		Key: "outbox.payload", Default: "payload",
		Help:  "Column of the record's value.",
		field: into(identifier, func(c *Config) *string { return &c.Outbox.Payload }),
	},
	{
		Key: "outbox.timestamp", Means: "the time of the commit",
		Help:  "Column of the record's timestamp.",
		field: into(optionalIdentifier, func(c *Config) *string { return &c.Outbox.Timestamp }),
	},
	{
		Key: "outbox.update", Default: "warn",
		Help:  "What an update of an outbox row does, where the publication has updates: it is logged, or stops walpost. It is no event.",
		field: into(oneOf(UpdateWarn, UpdateStop), func(c *Config) *Update { return &c.Outbox.Update }),
	},
	{
		Key: "outbox.order_by", Means: "as they lie in the table",
		Help:  "Column in whose order a snapshot publishes the rows; an index must begin with it.",
		field: into(optionalIdentifier, func(c *Config) *string { return &c.Outbox.OrderBy }),
	},
	{
		Key:   "outbox.place",
		Help:  "Columns to place, each column:header[:alias], column:envelope[:alias] or column:partition.",
		field: into(listOf(0, placement), func(c *Config) *[]string { return &c.Outbox.Place }),
	},
	{
		Key: "outbox.topic", Default: "outbox.event.${routedByValue}",
		Help:  "Topic. ${name} and $1 stand for groups of outbox.route_regex.",
		field: into(required, func(c *Config) *string { return &c.Outbox.Topic }),
	},
	{
		Key: "outbox.route_regex", Default: "(?<routedByValue>.*)",
		Help:  "Regular expression that the whole value of the outbox.route column is matched with.",
		field: into(required, func(c *Config) *string { return &c.Outbox.RouteRegex }),
	},
	{
		Key: "outbox.place_missing", Default: "error",
		Help:  "What a placed column that a table does not have is: error makes its rows poison, ignore leaves the column out.",
		field: into(oneOf(PlaceMissingError, PlaceMissingIgnore), func(c *Config) *PlaceMissing { return &c.Outbox.PlaceMissing }),
	},
	{
		Key: "outbox.key_format", Default: "raw",
		Help:  "How the key is written: as Kafka Connect does with StringConverter (raw), JsonConverter without schemas (json) or with them (json-schema), or BinaryDataConverter (binary).",
		field: into(outboxFormat, func(c *Config) *OutboxFormat { return &c.Outbox.KeyFormat }),
	},
	{
		Key: "outbox.value_format", Default: "raw",
		Help:  "The same for the value.",
		field: into(outboxFormat, func(c *Config) *OutboxFormat { return &c.Outbox.ValueFormat }),
	},
	{
		Key: "outbox.expand_json", Default: "false",
		Help:  "Write a payload that is a JSON object or array as that, and not as a string. For the formats json and json-schema.",
		field: into(boolean, func(c *Config) *bool { return &c.Outbox.ExpandJSON }),
	},
	{
		Key: "outbox.tombstone_on_empty", Default: "false",
		Help:  "Write a tombstone, a record with a null value, for a payload that is NULL or blank.",
		field: into(boolean, func(c *Config) *bool { return &c.Outbox.TombstoneOnEmpty }),
	},
	{
		Key: "outbox.schema_name", Default: "walpost",
		Help:  "Beginning of the name of an envelope's schema in json-schema: Debezium's topic.prefix.",
		field: into(required, func(c *Config) *string { return &c.Outbox.SchemaName }),
	},
	{
		Key:   "outbox.schema_version",
		Help:  "Column of the version of an envelope's schema in json-schema, an integer.",
		field: into(optionalIdentifier, func(c *Config) *string { return &c.Outbox.SchemaVersion }),
	},
	{
		Key: "outbox.headers", Default: "debezium",
		Help:  "Headers beside those that are placed: Debezium's id, or those of CloudEvents in binary mode too, with the column type as ce_type.",
		field: into(oneOf(HeadersDebezium, HeadersCloudEvents), func(c *Config) *Headers { return &c.Outbox.Headers }),
	},
	{
		Key: "outbox.cloudevents_source", Means: "/schema/table",
		Help:  "Header ce_source, a URI or a part of one.",
		field: into(anything, func(c *Config) *string { return &c.Outbox.CloudEventsSource }),
	},
	{
		Key: "outbox.position_headers", Default: "false",
		Help: "Add the headers walpost-lsn and walpost-seq: the LSN of the commit and the place in the transaction, " +
			"stable over redelivery.",
		field: into(boolean, func(c *Config) *bool { return &c.Outbox.PositionHeaders }),
	},
	{
		Key: "messages.prefix", Means: "only rows are events",
		Help: "Prefix of pg_logical_emit_message, whose messages are events too: a JSON object with the fields of an outbox row. " +
			"With it a transaction is read only once it has committed. Of shards only the first reads messages.",
		field: into(anything, func(c *Config) *string { return &c.Messages.Prefix }),
	},
}
