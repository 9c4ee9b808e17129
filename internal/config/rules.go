package config

import (
	"fmt"
	"slices"
	"time"
)

// rule is about two settings that must go together.
type rule struct {
	key   string // the setting that is reported
	other string // what text says with %s
	text  string
	hint  string

	// broken is asked only if neither setting has a problem of its own.
	broken func(*Config) bool
}

const (
	oneOfTwoHint = "set one of the two; an empty value unsets the other"
	passwordHint = "set kafka.sasl.mechanism to PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
	tokenHint    = "set kafka.sasl.mechanism to OAUTHBEARER"
	tlsHint      = "set kafka.tls.enabled to true"

	noEffect   = "has no effect with this %s"
	noEffectIf = "has no effect without %s"
	needs      = "needs %s"
)

var rules = []rule{
	{
		"postgres.shard", "postgres.slot", "makes %s or postgres.publication longer than 63 bytes", "shorten them",
		func(c *Config) bool { return c.Postgres.Shard.tooLong(c) },
	},
	{
		"snapshot", "checkpoint.store", "cannot be remembered with this %s", "set checkpoint.store to postgres or file",
		func(c *Config) bool { return c.Snapshot == SnapshotInitial && c.Checkpoint.Store == StoreSlot },
	},
	{
		"outbox.order_by", "snapshot", noEffectIf, "set snapshot to initial",
		func(c *Config) bool { return c.Outbox.OrderBy != "" && c.Snapshot == SnapshotNone },
	},
	{
		"postgres.password_file", "postgres.dsn", "conflicts with the password in %s", "keep one of the two",
		func(c *Config) bool { return c.Postgres.Password != "" && dsnHasPassword(string(c.Postgres.DSN)) },
	},

	{
		"kafka.tls.ca_file", "kafka.tls.enabled", noEffectIf, tlsHint,
		func(c *Config) bool { return c.Kafka.TLS.CAFile != "" && !c.Kafka.TLS.Enabled },
	},
	{
		"kafka.tls.cert_file", "kafka.tls.enabled", noEffectIf, tlsHint,
		func(c *Config) bool { return c.Kafka.TLS.CertFile != "" && !c.Kafka.TLS.Enabled },
	},
	{
		"kafka.tls.key_file", "kafka.tls.enabled", noEffectIf, tlsHint,
		func(c *Config) bool { return c.Kafka.TLS.KeyFile != "" && !c.Kafka.TLS.Enabled },
	},
	{
		"kafka.tls.server_name", "kafka.tls.enabled", noEffectIf, tlsHint,
		func(c *Config) bool { return c.Kafka.TLS.ServerName != "" && !c.Kafka.TLS.Enabled },
	},
	{
		"kafka.tls.insecure_skip_verify", "kafka.tls.enabled", noEffectIf, tlsHint,
		func(c *Config) bool { return c.Kafka.TLS.InsecureSkipVerify && !c.Kafka.TLS.Enabled },
	},
	{
		"kafka.tls.cert_file", "kafka.tls.key_file", needs, "",
		func(c *Config) bool { return c.Kafka.TLS.CertFile != "" && c.Kafka.TLS.KeyFile == "" },
	},
	{
		"kafka.tls.key_file", "kafka.tls.cert_file", needs, "",
		func(c *Config) bool { return c.Kafka.TLS.KeyFile != "" && c.Kafka.TLS.CertFile == "" },
	},

	{
		"admin.token_file", "admin.listen", noEffect, "",
		func(c *Config) bool { return c.Admin.TokenFile != "" && c.Admin.Listen == "" },
	},

	{
		"kafka.sasl.username", "kafka.sasl.mechanism", noEffect, passwordHint,
		func(c *Config) bool { return c.Kafka.SASL.Username != "" && !c.Kafka.SASL.byPassword() },
	},
	{
		"kafka.sasl.password", "kafka.sasl.mechanism", noEffect, passwordHint,
		func(c *Config) bool {
			return c.Kafka.SASL.Password != "" && c.Kafka.SASL.PasswordFile == "" && !c.Kafka.SASL.byPassword()
		},
	},
	{
		"kafka.sasl.password_file", "kafka.sasl.mechanism", noEffect, passwordHint,
		func(c *Config) bool { return c.Kafka.SASL.PasswordFile != "" && !c.Kafka.SASL.byPassword() },
	},
	{
		"kafka.sasl.token", "kafka.sasl.mechanism", noEffect, tokenHint,
		func(c *Config) bool { return c.Kafka.SASL.Token != "" && !c.Kafka.SASL.byToken() },
	},
	{
		"kafka.sasl.token_file", "kafka.sasl.mechanism", noEffect, tokenHint,
		func(c *Config) bool { return c.Kafka.SASL.TokenFile != "" && !c.Kafka.SASL.byToken() },
	},
	{
		"kafka.sasl.token_file", "kafka.sasl.token", "conflicts with %s", oneOfTwoHint,
		func(c *Config) bool { return c.Kafka.SASL.TokenFile != "" && c.Kafka.SASL.Token != "" },
	},
	{
		"kafka.sasl.mechanism", "kafka.sasl.username", needs, "",
		func(c *Config) bool { return c.Kafka.SASL.byPassword() && c.Kafka.SASL.Username == "" },
	},
	{
		"kafka.sasl.mechanism", "kafka.sasl.password", needs, "or set kafka.sasl.password_file",
		func(c *Config) bool { return c.Kafka.SASL.byPassword() && c.Kafka.SASL.Password == "" },
	},
	{
		"kafka.sasl.mechanism", "kafka.sasl.token", needs, "or set kafka.sasl.token_file",
		func(c *Config) bool {
			return c.Kafka.SASL.byToken() && c.Kafka.SASL.Token == "" && c.Kafka.SASL.TokenFile == ""
		},
	},

	{
		"delivery.retry.initial", "delivery.retry.max", "is longer than %s", "",
		func(c *Config) bool { return c.Delivery.Retry.Initial > c.Delivery.Retry.Max },
	},
	{
		keyStore, keyGuarantee, "conflicts with %s exactly-once", "leave checkpoint.store out, or set it to kafka",
		func(c *Config) bool { return c.Delivery.Guarantee == ExactlyOnce && c.Checkpoint.Store != StoreKafka },
	},
	{
		keyStore, keyGuarantee, "kafka needs %s exactly-once", "set that, or choose postgres, slot or file",
		func(c *Config) bool { return c.Delivery.Guarantee != ExactlyOnce && c.Checkpoint.Store == StoreKafka },
	},
	{
		"kafka.transaction_timeout", keyGuarantee, noEffect, "set delivery.guarantee to exactly-once",
		func(c *Config) bool {
			return c.Delivery.Guarantee != ExactlyOnce && c.Kafka.TransactionTimeout != time.Minute
		},
	},
	{
		"purge.archive", "purge.archive_dir", needs, "a folder that exists",
		func(c *Config) bool { return c.Purge.Archive != "" && c.Purge.ArchiveDir == "" },
	},
	{
		"purge.archive_bucket", "purge.archive", noEffectIf, "set purge.archive to ndjson",
		func(c *Config) bool { return c.Purge.Archive == "" && c.Purge.ArchiveBucket != "" },
	},
	{
		"purge.archive_dir", "purge.archive", noEffectIf, "set purge.archive to ndjson",
		func(c *Config) bool { return c.Purge.Archive == "" && c.Purge.ArchiveDir != "" },
	},
	{
		"checkpoint.store", "checkpoint.file", needs, "the path of the file",
		func(c *Config) bool { return c.Checkpoint.Store == StoreFile && c.Checkpoint.File == "" },
	},
	{
		"checkpoint.file", "checkpoint.store", noEffect, "set checkpoint.store to file",
		func(c *Config) bool { return c.Checkpoint.Store != StoreFile && c.Checkpoint.File != "" },
	},
}

func (s SASL) byPassword() bool {
	return s.Mechanism == MechanismPlain || s.Mechanism == MechanismScramSHA256 || s.Mechanism == MechanismScramSHA512
}

func (s SASL) byToken() bool { return s.Mechanism == MechanismOAuthBearer }

// check notes the rules that c breaks. A setting that broke one is still asked
// about the others.
func (l *loader) check(c *Config) {
	var broken []rule
	for _, r := range slices.Concat(rules, registryRules) {
		if !l.bad[r.key] && !l.bad[r.other] && r.broken(c) {
			broken = append(broken, r)
		}
	}
	for _, r := range broken {
		l.refuse(r.key, fmt.Sprintf(r.text, l.name(r.other)), r.hint)
	}
}
