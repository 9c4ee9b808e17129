package config

import "net/url"

// SchemaRegistry is where the schemas of values are. Without a URL there is none.
type SchemaRegistry struct {
	URL string

	// Username and Password are for basic authentication. Password may have been read
	// from PasswordFile.
	Username     string
	Password     Secret
	PasswordFile string
}

// optionalRegistry takes a URL of http or https without a user, or nothing. What it refuses
// may hold a password, and is not quoted.
var optionalRegistry = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case s == "":
		return "", nil
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return invalid[string]("is not a URL", "http://host:port or https://host:port")
	case u.User != nil:
		return invalid[string]("holds a user name", "set kafka.schema_registry.username and kafka.schema_registry.password_file")
	}
	return s, nil
}}

var registrySettings = []setting{
	{
		Key: "kafka.schema_registry.url", Means: "values are written as they are",
		Help: "Confluent's Schema Registry, or one that speaks as it does. Payloads are JSON then, and are validated against the latest " +
			"JSON Schema of the subject TOPIC-value, or written as its Avro, in the registry's wire format. One that does not fit is poison. " +
			"Only with outbox.value_format raw or json.",
		field: into(optionalRegistry, func(c *Config) *string { return &c.Kafka.SchemaRegistry.URL }),
	},
	{
		Key:   "kafka.schema_registry.username",
		Help:  "User name for the registry.",
		field: into(anything, func(c *Config) *string { return &c.Kafka.SchemaRegistry.Username }),
	},
	{
		Key:   "kafka.schema_registry.password",
		Help:  "Password for the registry.",
		field: into(anySecret, func(c *Config) *Secret { return &c.Kafka.SchemaRegistry.Password }),
	},
	{
		Key:   "kafka.schema_registry.password_file",
		Help:  "File that holds kafka.schema_registry.password.",
		field: into(anything, func(c *Config) *string { return &c.Kafka.SchemaRegistry.PasswordFile }),
	},
}

var registryRules = []rule{
	{
		"kafka.schema_registry.url", "outbox.value_format", "goes only with %s raw or json", "set that, or take the URL out",
		func(c *Config) bool {
			f := c.Outbox.ValueFormat
			return c.Kafka.SchemaRegistry.URL != "" && f != FormatRaw && f != FormatJSON
		},
	},
	{
		"kafka.schema_registry.username", "kafka.schema_registry.url", noEffectIf, "",
		func(c *Config) bool { return c.Kafka.SchemaRegistry.Username != "" && c.Kafka.SchemaRegistry.URL == "" },
	},
	{
		"kafka.schema_registry.password", "kafka.schema_registry.username", noEffectIf, "",
		func(c *Config) bool {
			r := c.Kafka.SchemaRegistry
			return r.Password != "" && r.PasswordFile == "" && r.Username == ""
		},
	},
	{
		"kafka.schema_registry.password_file", "kafka.schema_registry.username", noEffectIf, "",
		func(c *Config) bool {
			return c.Kafka.SchemaRegistry.PasswordFile != "" && c.Kafka.SchemaRegistry.Username == ""
		},
	},
}
