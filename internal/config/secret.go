package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// Secret is text that prints as asterisks, whatever prints it. Convert it to a
// string to use it.
type Secret string

// mask stands for a secret. Its length says nothing.
const mask = "****"

// String returns asterisks, or nothing for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// Format implements [fmt.Formatter] for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText implements [encoding.TextMarshaler], for JSON and log/slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML returns what String does.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// maxSecret bounds what is read of a file that is no secret at all.
const maxSecret = 1 << 20

// ReadSecret reads a mounted secret, without the line breaks at its end. A file
// that is empty or larger than 1 MiB is an error. Errors name the file and
// hold nothing of what is in it.
func ReadSecret(path string) (Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if secret == "" || len(data) > maxSecret {
		return "", fmt.Errorf("read secret: %s is empty or larger than 1 MiB", path)
	}
	return Secret(secret), nil
}

// secretFiles are the settings that name a mounted secret. Into is the setting
// that the secret stands for; there is none for the database password and the token.
var secretFiles = []struct {
	key, into string
	path      func(*Config) string
	secret    func(*Config) *Secret
}{
	{
		"postgres.dsn_file", "postgres.dsn",
		func(c *Config) string { return c.Postgres.DSNFile },
		func(c *Config) *Secret { return &c.Postgres.DSN },
	},
	{
		"postgres.password_file", "",
		func(c *Config) string { return c.Postgres.PasswordFile },
		func(c *Config) *Secret { return &c.Postgres.Password },
	},
	{
		"kafka.sasl.password_file", "kafka.sasl.password",
		func(c *Config) string { return c.Kafka.SASL.PasswordFile },
		func(c *Config) *Secret { return &c.Kafka.SASL.Password },
	},
	{
		"kafka.schema_registry.password_file", "kafka.schema_registry.password",
		func(c *Config) string { return c.Kafka.SchemaRegistry.PasswordFile },
		func(c *Config) *Secret { return &c.Kafka.SchemaRegistry.Password },
	},
	{
		"admin.token_file", "",
		func(c *Config) string { return c.Admin.TokenFile },
		func(c *Config) *Secret { return &c.Admin.Token },
	},
}

// secrets reads the mounted secrets into c.
func (l *loader) secrets(c *Config) {
	for _, sf := range secretFiles {
		path, secret := sf.path(c), sf.secret(c)
		if path == "" {
			continue
		}
		if *secret != "" {
			l.refuse(sf.key, "conflicts with "+l.name(sf.into), oneOfTwoHint)
			continue
		}
		value, err := ReadSecret(path)
		if err != nil {
			l.refuse(sf.key, pathProblem(err), "")
			l.bad[sf.into] = true
			continue
		}
		*secret = value
		if sf.into == "postgres.dsn" {
			l.refuseInvalid(sf.key, checkDSN(string(value)))
		}
	}
}

// pathProblem names the file and what is wrong with it.
func pathProblem(err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Path + ": " + pathErr.Err.Error()
	}
	return strings.TrimPrefix(err.Error(), "read secret: ")
}
