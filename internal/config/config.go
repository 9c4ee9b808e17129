// Package config reads walpost's settings from flags, environment variables
// and a YAML file, in this order of precedence, over defaults.
//
// One table, in settings.go, says what settings there are. Names of flags and
// variables, the file's keys, defaults, checks, the example file and the
// README's table all come from it.
package config

import (
	"cmp"
	"log/slog"
	"time"
)

// Config is what the program runs with, as [Load] made and checked it.
type Config struct {
	Postgres   Postgres
	Outbox     Outbox
	Messages   Messages
	Snapshot   Snapshot
	Kafka      Kafka
	Delivery   Delivery
	Checkpoint Checkpoint
	Replay     Replay
	Purge      Purge
	Admin      Admin
	Log        Log

	effective Effective
	former    []Former

	// text returns a setting as it was written. It is a function since whatever prints
	// a Config looks into its fields, and these hold secrets.
	text func(key string) string
}

// Former is a name that a user gave to a setting which is called otherwise now.
type Former struct {
	Name, Now string // keys of a file, variables, or flags with their dashes
	Where     string // file and line, or empty
}

// Former returns the names that are to be replaced, each of which has taken effect unless a
// later source has set the same.
func (c Config) Former() []Former { return c.former }

// Postgres says where the events come from.
type Postgres struct {
	// DSN is the connection string, as written or as read from DSNFile.
	// Empty means libpq's PG* variables. Connect with ConnString, which adds
	// Password.
	DSN     Secret
	DSNFile string

	// Password is what PasswordFile held, or empty.
	Password     Secret
	PasswordFile string

	// Publication and Slot are those of the shard, if there is one.
	Publication, Slot string

	base struct{ publication, slot string } // of all shards, if there are any

	Shard          Shard
	CreateSlot     bool
	Failover       Failover
	StatusInterval time.Duration
	PullAbove      Bytes // 0: never
	WaitForSlot    bool
}

// Update says what to do at an update of an outbox row.
type Update string

// The values of [Update].
const (
	UpdateWarn Update = "warn"
	UpdateStop Update = "stop"
)

// Snapshot says what of the rows that are older than the slot.
type Snapshot string

// The values of [Snapshot].
const (
	SnapshotNone    Snapshot = "none"
	SnapshotInitial Snapshot = "initial" // they are published before the stream
)

// Failover says whether a slot is created as a failover slot.
type Failover string

// The values of [Failover].
const (
	FailoverAuto Failover = "auto" // where the server can
	FailoverOn   Failover = "true"
	FailoverOff  Failover = "false"
)

// Outbox says how a row becomes a record.
type Outbox struct {
	Tables []Table // at least one, none twice

	ID, Key, Route, Payload string // columns

	// Timestamp is the column of the record's time. Empty means the time of
	// the commit.
	Timestamp string

	// OrderBy is the column whose order rows are published in that are read from the table.
	// Empty means as they lie there.
	OrderBy string

	// Update says what an update of a row is, which is never an event.
	Update Update

	// Place holds column:header[:alias], column:envelope[:alias] or column:partition.
	Place        []string
	PlaceMissing PlaceMissing

	// Topic and RouteRegex have the syntax of Java, which the router reads.
	Topic, RouteRegex string

	KeyFormat, ValueFormat       OutboxFormat
	ExpandJSON, TombstoneOnEmpty bool

	SchemaName    string
	SchemaVersion string // column, or empty

	Headers           Headers
	CloudEventsSource string // empty: of the table

	PositionHeaders bool
}

// OutboxFormat is how a key or a value is written.
type OutboxFormat string

// The formats.
const (
	FormatRaw        OutboxFormat = "raw"
	FormatJSON       OutboxFormat = "json"
	FormatJSONSchema OutboxFormat = "json-schema"
	FormatBinary     OutboxFormat = "binary"
)

// Headers says which headers a record has beside those that are placed.
type Headers string

// The headers.
const (
	HeadersDebezium    Headers = "debezium"
	HeadersCloudEvents Headers = "cloudevents"
)

// PlaceMissing says what a placed column is that a table does not have.
type PlaceMissing string

// The policies.
const (
	PlaceMissingError  PlaceMissing = "error"
	PlaceMissingIgnore PlaceMissing = "ignore"
)

// Messages says what is an event beside the rows of the outbox.
type Messages struct {
	Prefix string // of pg_logical_emit_message; empty: nothing
}

// Kafka says where the events go.
type Kafka struct {
	Brokers     []string // host or host:port, at least one
	Compression Compression
	Linger      time.Duration // zero: send at once

	// MaxMessageBytes is the largest record batch. Zero means what the topic
	// allows.
	MaxMessageBytes Bytes

	CreateTopics      bool
	Partitions        int // of created topics; zero: the broker's default
	ReplicationFactor int // of created topics; zero: the broker's default

	// TransactionTimeout is for ExactlyOnce.
	TransactionTimeout time.Duration

	TLS  TLS
	SASL SASL

	SchemaRegistry SchemaRegistry
}

// Compression is a codec for record batches.
type Compression string

// The codecs.
const (
	CompressionNone   Compression = "none"
	CompressionGzip   Compression = "gzip"
	CompressionSnappy Compression = "snappy"
	CompressionLZ4    Compression = "lz4"
	CompressionZstd   Compression = "zstd"
)

// TLS says how the connection to Kafka is encrypted.
type TLS struct {
	Enabled bool

	// CAFile is a PEM file. Empty means the system's certificates.
	CAFile string

	// CertFile and KeyFile are the client's certificate; both or neither.
	CertFile, KeyFile string

	// ServerName is the name to expect in the broker's certificate. Empty
	// means its host name.
	ServerName string

	InsecureSkipVerify bool
}

// SASL says who we are to Kafka.
type SASL struct {
	// Mechanism is empty for no authentication.
	Mechanism Mechanism

	// Username and Password belong to PLAIN and SCRAM. Password may have been
	// read from PasswordFile.
	Username     string
	Password     Secret
	PasswordFile string

	// Token or TokenFile, never both, belongs to OAUTHBEARER. The file could
	// be read when the configuration was; it is to be read again for each
	// connection, since tokens expire and are replaced there.
	Token     Secret
	TokenFile string
}

// Mechanism is a SASL mechanism.
type Mechanism string

// The mechanisms.
const (
	MechanismPlain       Mechanism = "PLAIN"
	MechanismScramSHA256 Mechanism = "SCRAM-SHA-256"
	MechanismScramSHA512 Mechanism = "SCRAM-SHA-512"
	MechanismOAuthBearer Mechanism = "OAUTHBEARER"
	MechanismAWSMSKIAM   Mechanism = "AWS_MSK_IAM"
)

// Delivery says what is promised and what it may cost.
type Delivery struct {
	Guarantee            Guarantee
	MaxInFlightBytes     Bytes
	MaxUnconfirmedEvents int
	MaxTxMemory          Bytes

	// SpillDir is an existing folder. Empty means the system's folder for
	// temporary files.
	SpillDir string

	Poison Poison

	// MaxDeadLetters bounds the dead letters that are open, and MaxParkedEvents
	// what is parked behind them.
	MaxDeadLetters, MaxParkedEvents int

	// DeadLetterTopic may be empty; see [Config.DeadLetters].
	DeadLetterTopic string

	Retry        Retry
	DrainTimeout time.Duration
}

// Guarantee is how often an event may arrive.
type Guarantee string

// The guarantees.
const (
	// AtLeastOnce repeats events only after a crash, a take-over or a stop
	// whose drain ran out.
	AtLeastOnce Guarantee = "at-least-once"

	// ExactlyOnce lets a consumer of committed records see each event once.
	// It goes with StoreKafka, and StoreKafka with it.
	ExactlyOnce Guarantee = "exactly-once"
)

// Poison says what becomes of a row that can never be published.
type Poison string

// The values of [Poison].
const (
	PoisonStop       Poison = "stop"        // ends the stream at such a row
	PoisonDeadLetter Poison = "dead-letter" // publishes it elsewhere
)

// DeadLetters returns the topic of the dead letters.
func (c *Config) DeadLetters() string {
	return cmp.Or(c.Delivery.DeadLetterTopic, c.Postgres.Slot+".dead-letters")
}

// Retry is the back-off of reconnects. Initial is never longer than Max.
type Retry struct {
	Initial, Max time.Duration
}

// Checkpoint says where the position is saved.
type Checkpoint struct {
	Store    Store
	File     string // path, for StoreFile and only then
	Topic    string // of the checkpoints of StoreKafka, and of what is noted beside other stores; empty: the default
	Interval time.Duration
}

// Store is a kind of checkpoint store.
type Store string

// The stores.
const (
	StorePostgres Store = "postgres"
	StoreSlot     Store = "slot"
	StoreFile     Store = "file"
	StoreKafka    Store = "kafka"
)

// Replay says what is kept to be published again.
type Replay struct {
	Window   time.Duration // zero: nothing
	MaxBytes Bytes
}

// Purge says what is deleted from the outbox table.
type Purge struct {
	OlderThan  time.Duration // zero: nothing
	Archive    Archive       // empty: nothing is archived
	ArchiveDir string        // an existing folder, with Archive and only then

	ArchiveBucket string // s3://bucket/prefix, or empty
}

// Archive is a form of what is archived.
type Archive string

// The forms.
const (
	ArchiveNDJSON  Archive = "ndjson" // a line of JSON for each row
	ArchiveParquet Archive = "parquet"
)

// Admin says how the service is watched.
type Admin struct {
	Listen string // host:port; empty: off
	MaxLag time.Duration

	// Token is what TokenFile held: who shows it may settle dead letters. Empty: nobody.
	Token     Secret
	TokenFile string
}

// Log says what is logged and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// LogFormat is how a log line is written.
type LogFormat string

// The formats.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)
