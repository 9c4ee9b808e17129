package config

import (
	"log/slog"
	"math"
	"slices"
	"time"
)

// keyStore and keyGuarantee are what the default store depends on.
const (
	keyStore     = "checkpoint.store"
	keyGuarantee = "delivery.guarantee"
)

// settings are all there are, in the order in which they are shown. A list's
// default is separated by commas.
var settings = slices.Concat([]setting{
	{
		Key: "postgres.dsn", Short: "dsn", Means: "libpq's PG* variables",
		Help:  "Connection string, a URL or keywords. Unix sockets and TLS as libpq has them.",
		field: into(connString, func(c *Config) *Secret { return &c.Postgres.DSN }),
	},
	{
		Key:   "postgres.dsn_file",
		Help:  "File that holds postgres.dsn.",
		field: into(anything, func(c *Config) *string { return &c.Postgres.DSNFile }),
	},
	{
		Key:   "postgres.password_file",
		Help:  "File that holds the password, for a connection string without one.",
		field: into(anything, func(c *Config) *string { return &c.Postgres.PasswordFile }),
	},
	{
		Key: "postgres.publication", Short: "publication", Default: "walpost",
		Help:  "Publication. It must exist and publish inserts of the outbox table.",
		field: into(identifier, func(c *Config) *string { return &c.Postgres.Publication }),
	},
	{
		Key: "postgres.slot", Short: "slot", Default: "walpost",
		Help:  "Replication slot.",
		field: into(slotName, func(c *Config) *string { return &c.Postgres.Slot }),
	},
	{
		Key: "postgres.shard", Means: "all keys",
		Help: "This instance's share of the keys, i/K with i from 0 to K-1. Publication and slot are those that " +
			"walpost init --shards K makes: their names are postgres.publication and postgres.slot with _i_of_K after them.",
		field: into(optionalShard, func(c *Config) *Shard { return &c.Postgres.Shard }),
	},
	{
		Key: "postgres.create_slot", Default: "true",
		Help: "Create the slot when there is neither a slot nor a checkpoint, nor a slot of another number of shards. " +
			"With checkpoint.store slot only walpost init creates it.",
		field: into(boolean, func(c *Config) *bool { return &c.Postgres.CreateSlot }),
	},
	{
		Key: "postgres.failover", Default: "auto",
		Help:  "Create the slot as a failover slot. Auto does so from Postgres 17 on.",
		field: into(oneOf(FailoverAuto, FailoverOn, FailoverOff), func(c *Config) *Failover { return &c.Postgres.Failover }),
	},
	{
		Key: "postgres.status_interval", Default: "5s",
		Help:  "Time between two standby status messages, never more than a third of the session's wal_sender_timeout.",
		field: into(atLeast(time.Millisecond), func(c *Config) *time.Duration { return &c.Postgres.StatusInterval }),
	},
	{
		Key: "postgres.pull_above", Default: "32MiB",
		Help:  "How far behind the stream may be, in WAL, before the backlog is pulled through a copy of the slot, which is faster. 0 never pulls.",
		field: into(within(byteCount, 0, unlimited), func(c *Config) *Bytes { return &c.Postgres.PullAbove }),
	},
	{
		Key: "postgres.wait_for_slot", Default: "true",
		Help:  "Wait for a slot that is in use and take over when it is free, else exit 1.",
		field: into(boolean, func(c *Config) *bool { return &c.Postgres.WaitForSlot }),
	},
}, outboxSettings, []setting{
	{
		Key: "kafka.brokers", Short: "brokers", Default: "localhost:9092",
		Help:  "Brokers to learn the cluster from.",
		field: into(listOf(1, broker), func(c *Config) *[]string { return &c.Kafka.Brokers }),
	},
	{
		Key: "kafka.compression", Default: "lz4",
		Help: "Codec for record batches.",
		field: into(oneOf(CompressionNone, CompressionGzip, CompressionSnappy, CompressionLZ4, CompressionZstd),
			func(c *Config) *Compression { return &c.Kafka.Compression }),
	},
	{
		Key: "kafka.linger", Default: "0",
		Help:  "Time that a record may wait for others to share its batch. 0 sends at once.",
		field: into(within(duration, 0, time.Minute), func(c *Config) *time.Duration { return &c.Kafka.Linger }),
	},
	{
		Key: "kafka.max_message_bytes", Default: "0", Means: "the topic's limit",
		Help:  "Largest record batch.",
		field: into(orZero(within(byteCount, 512, 100<<20-1<<10)), func(c *Config) *Bytes { return &c.Kafka.MaxMessageBytes }),
	},
	{
		Key: "kafka.create_topics", Default: "false",
		Help:  "Create missing topics, and those that are deleted meanwhile, else wait until somebody has created them.",
		field: into(boolean, func(c *Config) *bool { return &c.Kafka.CreateTopics }),
	},
	{
		Key: "kafka.partitions", Default: "0", Means: "the broker's default",
		Help:  "Partitions of created topics.",
		field: into(within(integer, 0, 1<<20), func(c *Config) *int { return &c.Kafka.Partitions }),
	},
	{
		Key: "kafka.replication_factor", Default: "0", Means: "the broker's default",
		Help:  "Replicas of created topics.",
		field: into(within(integer, 0, 1<<15-1), func(c *Config) *int { return &c.Kafka.ReplicationFactor }),
	},
	{
		Key: "kafka.transaction_timeout", Default: "1m",
		Help: "With exactly-once, time after which the cluster aborts a transaction that is still open. " +
			"Consumers of committed records wait as long for a process that died and was not started again.",
		field: into(within(duration, time.Second, 15*time.Minute), func(c *Config) *time.Duration { return &c.Kafka.TransactionTimeout }),
	},
	{
		Key: "kafka.tls.enabled", Default: "false",
		Help:  "Encrypt the connections to Kafka.",
		field: into(boolean, func(c *Config) *bool { return &c.Kafka.TLS.Enabled }),
	},
	{
		Key: "kafka.tls.ca_file", Means: "the system's certificates",
		Help:  "PEM file of the authorities that sign the brokers' certificates, read again for each connection.",
		field: into(existingFile, func(c *Config) *string { return &c.Kafka.TLS.CAFile }),
	},
	{
		Key:   "kafka.tls.cert_file",
		Help:  "PEM file of the client's certificate.",
		field: into(existingFile, func(c *Config) *string { return &c.Kafka.TLS.CertFile }),
	},
	{
		Key:   "kafka.tls.key_file",
		Help:  "PEM file of the client certificate's key.",
		field: into(existingFile, func(c *Config) *string { return &c.Kafka.TLS.KeyFile }),
	},
	{
		Key: "kafka.tls.server_name", Means: "the broker's host",
		Help:  "Name to expect in the brokers' certificates.",
		field: into(anything, func(c *Config) *string { return &c.Kafka.TLS.ServerName }),
	},
	{
		Key: "kafka.tls.insecure_skip_verify", Default: "false",
		Help:  "Take any certificate. Whoever is in between can then read and change everything.",
		field: into(boolean, func(c *Config) *bool { return &c.Kafka.TLS.InsecureSkipVerify }),
	},
	{
		Key: "kafka.sasl.mechanism", Means: "no authentication",
		Help: "SASL mechanism.",
		field: into(oneOf("", MechanismPlain, MechanismScramSHA256, MechanismScramSHA512, MechanismOAuthBearer, MechanismAWSMSKIAM),
			func(c *Config) *Mechanism { return &c.Kafka.SASL.Mechanism }),
	},
	{
		Key:   "kafka.sasl.username",
		Help:  "User name, for PLAIN and SCRAM.",
		field: into(anything, func(c *Config) *string { return &c.Kafka.SASL.Username }),
	},
	{
		Key:   "kafka.sasl.password",
		Help:  "Password, for PLAIN and SCRAM.",
		field: into(anySecret, func(c *Config) *Secret { return &c.Kafka.SASL.Password }),
	},
	{
		Key:   "kafka.sasl.password_file",
		Help:  "File that holds kafka.sasl.password.",
		field: into(anything, func(c *Config) *string { return &c.Kafka.SASL.PasswordFile }),
	},
	{
		Key:   "kafka.sasl.token",
		Help:  "Token, for OAUTHBEARER.",
		field: into(anySecret, func(c *Config) *Secret { return &c.Kafka.SASL.Token }),
	},
	{
		Key:   "kafka.sasl.token_file",
		Help:  "File that holds kafka.sasl.token, read again for each connection.",
		field: into(secretFile, func(c *Config) *string { return &c.Kafka.SASL.TokenFile }),
	},
}, registrySettings, []setting{
	{
		Key: keyGuarantee, Default: "at-least-once",
		Help: "How often an event may arrive. Exactly-once is what consumers with isolation.level read_committed see: " +
			"events and the position are in one Kafka transaction.",
		field: into(oneOf(AtLeastOnce, ExactlyOnce), func(c *Config) *Guarantee { return &c.Delivery.Guarantee }),
	},
	{
		Key: "delivery.max_in_flight_bytes", Default: "6MiB",
		Help:  "Bound on everything between the database's socket and Kafka's acknowledgement, with some 700 bytes beside each event. What fits is what goes out in one round trip; raise it where brokers are far away.",
		field: into(within(byteCount, 1, unlimited), func(c *Config) *Bytes { return &c.Delivery.MaxInFlightBytes }),
	},
	{
		Key: "delivery.max_unconfirmed_events", Default: "1000000",
		Help:  "Events that may wait, acknowledged or not, behind the oldest unacknowledged one. Then reading stops.",
		field: into(within(integer, 1, math.MaxInt32), func(c *Config) *int { return &c.Delivery.MaxUnconfirmedEvents }),
	},
	{
		Key: "delivery.max_tx_memory", Default: "8MiB",
		Help:  "Memory for streamed transactions. Larger ones go to disk until they commit.",
		field: into(within(byteCount, 1, unlimited), func(c *Config) *Bytes { return &c.Delivery.MaxTxMemory }),
	},
	{
		Key: "delivery.spill_dir", Means: "the system's folder for temporary files",
		Help:  "Folder for transactions that go to disk, and for up to 256 MiB of a backlog.",
		field: into(existingFolder, func(c *Config) *string { return &c.Delivery.SpillDir }),
	},
	{
		Key: "delivery.poison", Default: "stop",
		Help: "What becomes of a row that can never be published. Stop ends the stream at it. Dead-letter publishes it to " +
			"delivery.dead_letter_topic, and later events of its key behind it, until it is retried or discarded.",
		field: into(oneOf(PoisonStop, PoisonDeadLetter), func(c *Config) *Poison { return &c.Delivery.Poison }),
	},
	{
		Key: "delivery.dead_letter_topic", Means: "the slot's name and .dead-letters",
		Help:  "Topic of the dead letters and of what is parked behind them. It should keep its records for ever, and take larger ones than the others.",
		field: into(optionalTopic, func(c *Config) *string { return &c.Delivery.DeadLetterTopic }),
	},
	{
		Key: "delivery.max_dead_letters", Default: "10000",
		Help: "Dead letters that may be open. At that many the stream is held, and not ready, until some are retried or discarded: " +
			"so a mistake that makes every row dead stops there. What is parked behind them does not count.",
		field: into(within(integer, 1, math.MaxInt32), func(c *Config) *int { return &c.Delivery.MaxDeadLetters }),
	},
	{
		Key: "delivery.max_parked_events", Default: "1000000",
		Help: "Events that may be parked behind dead letters. At that many the stream is held, as with delivery.max_dead_letters. " +
			"A start reads all of them, and a retry takes some 20 bytes of memory for each that it is about.",
		field: into(within(integer, 1, math.MaxInt32), func(c *Config) *int { return &c.Delivery.MaxParkedEvents }),
	},
	{
		Key: "delivery.retry.initial", Default: "100ms",
		Help:  "First wait before a reconnect. Each further one is longer.",
		field: into(atLeast(time.Millisecond), func(c *Config) *time.Duration { return &c.Delivery.Retry.Initial }),
	},
	{
		Key: "delivery.retry.max", Default: "30s",
		Help:  "Longest wait before a reconnect.",
		field: into(atLeast(time.Millisecond), func(c *Config) *time.Duration { return &c.Delivery.Retry.Max }),
	},
	{
		Key: "delivery.drain_timeout", Default: "10s",
		Help:  "Time that a stop waits for what is in flight.",
		field: into(atLeast(time.Millisecond), func(c *Config) *time.Duration { return &c.Delivery.DrainTimeout }),
	},

	{
		Key: keyStore, Means: "postgres, or kafka with exactly-once",
		Help: "Where the position is saved: a row in the same database, the slot itself, a file, or a compacted topic. " +
			"The last goes with exactly-once, and only that with it.",
		field: into(oneOf(StorePostgres, StoreSlot, StoreFile, StoreKafka),
			func(c *Config) *Store { return &c.Checkpoint.Store }),
	},
	{
		Key:   "checkpoint.file",
		Help:  "Path of the file, for checkpoint.store file. Its folder must exist.",
		field: into(newFile, func(c *Config) *string { return &c.Checkpoint.File }),
	},
	{
		Key: "checkpoint.topic", Means: "walpost.progress",
		Help: "Compacted topic for checkpoint.store kafka, which is created when it is missing. With other stores what is noted there lets walpost refuse a copy of the database's disk: " +
			"if the topic exists, or kafka.create_topics is set. Slots may share it.",
		field: into(anything, func(c *Config) *string { return &c.Checkpoint.Topic }),
	},
	{
		Key: "checkpoint.interval", Default: "1s",
		Help:  "Least time between two saves. With exactly-once each Kafka transaction is one.",
		field: into(atLeast(time.Millisecond), func(c *Config) *time.Duration { return &c.Checkpoint.Interval }),
	},

	{
		Key: "snapshot", Default: "none",
		Help: "What of the rows that are older than the slot: none leaves them out, initial publishes them once before the stream. " +
			"walpost run then makes the slot, and walpost init does not. It needs SELECT on the table.",
		field: into(oneOf(SnapshotNone, SnapshotInitial), func(c *Config) *Snapshot { return &c.Snapshot }),
	},
	{
		Key: "replay.window", Default: "0",
		Help: "Time for which the service keeps what it has published in WAL, so that walpost replay can publish it again. " +
			"0 keeps nothing. It takes a slot of its own, SLOT_bm_window.",
		field: into(orZero(within(span, time.Minute, unlimited)), func(c *Config) *time.Duration { return &c.Replay.Window }),
	},
	{
		Key: "replay.max_bytes", Default: "10GiB",
		Help:  "WAL that replay.window keeps at most, whatever the time, and that a new bookmark may keep at once.",
		field: into(within(byteCount, 1, unlimited), func(c *Config) *Bytes { return &c.Replay.MaxBytes }),
	},

	{
		Key: "purge.older_than", Default: "0",
		Help: "Age from which on the service deletes published rows from the outbox table, in small batches, or drops whole partitions that walpost init --partitioned has made. " +
			"Rows that are not published and confirmed, or behind a bookmark, are never deleted. 0 deletes nothing.",
		field: into(orZero(within(span, time.Minute, unlimited)), func(c *Config) *time.Duration { return &c.Purge.OlderThan }),
	},
	{
		Key: "purge.archive", Means: "nothing is archived",
		Help:  "Form in which rows are written to purge.archive_dir before they are deleted: JSON lines, or Parquet files, which are made of those when a purge ends.",
		field: into(oneOf("", ArchiveNDJSON, ArchiveParquet), func(c *Config) *Archive { return &c.Purge.Archive }),
	},
	{
		Key:   "purge.archive_dir",
		Help:  "Folder for what purge.archive writes.",
		field: into(existingFolder, func(c *Config) *string { return &c.Purge.ArchiveDir }),
	},
	{
		Key: "purge.archive_bucket", Means: "the files stay in purge.archive_dir",
		Help: "Bucket of a store that speaks S3, as s3://bucket/prefix, to which a purge moves its files when it ends. " +
			"Credentials, region and endpoint are those of the AWS_* variables.",
		field: into(optionalBucket, func(c *Config) *string { return &c.Purge.ArchiveBucket }),
	},

	{
		Key: "admin.listen", Default: "127.0.0.1:9187",
		Help:  "Address of the health checks and metrics. Empty turns them off.",
		field: into(listenAddress, func(c *Config) *string { return &c.Admin.Listen }),
	},
	{
		Key: "admin.max_lag", Default: "30s",
		Help:  "Age of the oldest unacknowledged commit from which on the service is not ready.",
		field: into(atLeast(time.Millisecond), func(c *Config) *time.Duration { return &c.Admin.MaxLag }),
	},
	{
		Key:   "admin.token_file",
		Help:  "File that holds a token with which the status page lists, retries and discards dead letters. Empty: it shows only how many there are.",
		field: into(anything, func(c *Config) *string { return &c.Admin.TokenFile }),
	},

	{
		Key: "log.level", Default: "info",
		Help:  "Least level that is logged.",
		field: into(logLevel, func(c *Config) *slog.Level { return &c.Log.Level }),
	},
	{
		Key: "log.format", Default: "text",
		Help:  "How a line is written.",
		field: into(oneOf(LogText, LogJSON), func(c *Config) *LogFormat { return &c.Log.Format }),
	},
})
