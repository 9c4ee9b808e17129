package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// Source says where a value comes from.
type Source string

// The sources.
const (
	SourceDefault     Source = "default"
	SourceFile        Source = "file"
	SourceEnvironment Source = "environment"
	SourceFlag        Source = "flag"
)

// origin is where a value was written.
type origin struct {
	source Source
	name   string // what the user wrote
	where  string // file and line
}

// Load reads the configuration from the flags that [AddFlags] added to flags,
// which are parsed by now, from the variables in environ, which are of the form
// name=value, and from the file that one of them names. Flags may be nil.
//
// Text that is set but empty counts as set; a null in the file does not.
// Variables that begin with WALPOST_TEST_, and those that Kubernetes sets for
// services, are left alone.
//
// The error is an [*Error] with all problems, those of the judges among them. Load
// opens the files that the configuration names, and nothing else: no server is asked.
func Load(flags *pflag.FlagSet, environ []string, judges ...Judge) (Config, error) {
	l := &loader{values: koanf.New("."), origins: map[string]origin{}, bad: map[string]bool{}}
	l.loadDefaults()
	l.loadFile(configFile(flags, environ))
	l.loadEnvironment(environ)
	l.loadFlags(flags)
	l.chooseStore()

	var c Config
	l.fill(&c)
	l.secrets(&c)
	l.check(&c)
	c.Postgres.choose()
	slices.SortFunc(l.former, func(a, b Former) int { return cmp.Compare(a.Name, b.Name) })
	c.former = l.former
	for _, j := range judges {
		l.ask(j, c)
	}
	if len(l.problems) > 0 {
		return Config{}, &Error{l.problems}
	}
	return c, nil
}

// Judge says what is wrong with settings that another package understands.
type Judge struct {
	// Keys is how the settings' keys begin. If one of them has a problem already, the
	// judge is not asked.
	Keys string

	// Check returns the problems. Their Key is that of a setting, for which what the
	// user wrote is put in, or empty.
	Check func(Config) []Problem
}

func (l *loader) ask(j Judge, c Config) {
	for key := range l.bad {
		if strings.HasPrefix(key, j.Keys) {
			return
		}
	}
	for _, p := range j.Check(c) {
		if p.Key == "" {
			l.problems = append(l.problems, p)
			continue
		}
		l.refuse(p.Key, p.Text, p.Hint)
	}
}

// loader collects values and what is wrong with them.
type loader struct {
	values   *koanf.Koanf      // text by key
	origins  map[string]origin // by key; none for defaults
	bad      map[string]bool   // keys with a problem
	problems []Problem
	former   []Former
}

func (l *loader) loadDefaults() {
	values := make(map[string]any, len(settings))
	for i := range settings {
		values[settings[i].Key] = settings[i].Default
	}
	l.add(confmap.Provider(values, "."))
}

// chooseStore gives the store the default that goes with the guarantee.
func (l *loader) chooseStore() {
	if l.values.String(keyStore) != "" {
		return
	}
	store := StorePostgres
	if strings.EqualFold(l.values.String(keyGuarantee), string(ExactlyOnce)) {
		store = StoreKafka
	}
	l.add(confmap.Provider(map[string]any{keyStore: string(store)}, "."))
}

// add puts a layer over those before it.
func (l *loader) add(p koanf.Provider) {
	if err := l.values.Load(p, nil); err != nil {
		l.problems = append(l.problems, Problem{Text: fmt.Sprintf("load configuration: %v", err)})
	}
}

// fill stores the values in c.
func (l *loader) fill(c *Config) {
	c.text = l.values.String
	for i := range settings {
		s := &settings[i]
		text := l.values.String(s.Key)
		l.refuseInvalid(s.Key, s.store(c, text))
		c.effective = append(c.effective, Value{
			Key:     s.Key,
			Text:    s.masked(text),
			Source:  l.origin(s.Key).source,
			setting: s,
		})
	}
}

// note remembers that name was written for a setting that is called now, if that differs.
func (l *loader) note(name, now, where string) {
	if name != now {
		l.former = append(l.former, Former{name, now, where})
	}
}

// refuse notes a problem with the value of a key, under the name that the user
// gave it.
func (l *loader) refuse(key, text, hint string) {
	o := l.origin(key)
	l.bad[key] = true
	l.problems = append(l.problems, Problem{Key: o.name, Where: o.where, Text: text, Hint: hint})
}

// refuseInvalid notes err, if any, and its hint.
func (l *loader) refuseInvalid(key string, err error) {
	var invalid *invalidError
	switch {
	case errors.As(err, &invalid):
		l.refuse(key, invalid.text, invalid.hint)
	case err != nil:
		l.refuse(key, err.Error(), "")
	}
}

func (l *loader) origin(key string) origin {
	if o, ok := l.origins[key]; ok {
		return o
	}
	return origin{source: SourceDefault, name: key}
}

// name returns what the user wrote for key.
func (l *loader) name(key string) string { return l.origin(key).name }
