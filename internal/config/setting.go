package config

import (
	"slices"
	"strings"
)

// setting is one line of the table.
type setting struct {
	Key     string
	Was     []string // keys that it had in earlier versions, and is still known by
	Short   string   // the flag's short form, if it has one
	Default string   // as a user would write it
	Means   string   // what the default stands for, if it does not say so itself
	Help    string   // what it is, in sentences
	field
}

// field is how a value gets into a Config.
type field struct {
	kind    kind
	choices []string
	store   func(c *Config, text string) error
}

// into reads with p what goes to the place that at returns.
func into[T any](p parser[T], at func(*Config) *T) field {
	return field{p.kind, p.choices, func(c *Config, text string) error {
		v, err := p.parse(text)
		if err != nil {
			return err
		}
		*at(c) = v
		return nil
	}}
}

// env returns the name of the environment variable.
func (s *setting) env() string { return envOf(s.Key) }

func envOf(key string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

// keys returns the key and the former ones.
func (s *setting) keys() []string { return append([]string{s.Key}, s.Was...) }

// describe returns the help with what may be chosen.
func (s *setting) describe() string {
	if len(s.choices) == 0 {
		return s.Help
	}
	return s.Help + " One of " + strings.Join(s.choices, ", ") + "."
}

// masked returns text as it may be shown.
func (s *setting) masked(text string) string {
	switch {
	case s.kind != kindSecret || text == "":
		return text
	case s.Key == "postgres.dsn":
		return maskDSN(text)
	default:
		return mask
	}
}

// settingOf returns the setting of a key, which may be a former one, or nil.
func settingOf(key string) *setting {
	i := slices.IndexFunc(settings, func(s setting) bool { return slices.Contains(s.keys(), key) })
	if i < 0 {
		return nil
	}
	return &settings[i]
}

// isSection reports whether keys begin with name and a dot.
func isSection(name string) bool {
	return slices.ContainsFunc(settings, func(s setting) bool {
		return slices.ContainsFunc(s.keys(), func(key string) bool { return strings.HasPrefix(key, name+".") })
	})
}
