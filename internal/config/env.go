package config

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/env/v2"
	"github.com/spf13/pflag"
)

const (
	envPrefix     = "WALPOST_"
	envFile       = envPrefix + "CONFIG"
	envTestPrefix = envPrefix + "TEST_"
)

// kubernetesVariable matches what Kubernetes puts into every container for
// services whose name begins with walpost.
// https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
var kubernetesVariable = regexp.MustCompile(`^WALPOST_(?:[A-Z0-9_]+_)?(?:` +
	`SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)$`)

// Environ returns variables with which [Load], which must have made c, makes it again, from the same mounted
// files, but for the settings in instead, by key, which get the texts given there. They
// hold secrets in clear, and are for a process that needs them.
func (c Config) Environ(instead map[string]string) []string {
	var environ []string
	for i := range settings {
		s := &settings[i]
		text, replaced := instead[s.Key]
		if !replaced {
			text = c.text(s.Key)
		}
		if text != s.Default {
			environ = append(environ, s.env()+"="+text)
		}
	}
	return environ
}

// Defaults returns the settings whose keys begin with one of the prefixes, by key, with
// their defaults. It is for [Config.Environ].
func Defaults(prefixes ...string) map[string]string {
	defaults := map[string]string{}
	for i := range settings {
		s := &settings[i]
		if slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(s.Key, prefix) }) {
			defaults[s.Key] = s.Default
		}
	}
	return defaults
}

func (l *loader) loadEnvironment(environ []string) {
	keys, given := make(map[string]string, len(settings)), map[string]string{}
	for i := range settings {
		for _, key := range settings[i].keys() {
			keys[envOf(key)] = settings[i].Key
		}
	}
	var unknown []string
	l.add(env.Provider(".", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, text string) (string, any) {
			key := keys[name]
			switch {
			case key != "":
				l.origins[key] = origin{source: SourceEnvironment, name: name}
				if other := cmp.Or(given[key], name); other != name {
					l.refuse(key, "means the same as "+other, "set "+envOf(key)+" only")
				}
				given[key] = name
				l.note(name, envOf(key), "")
			case !foreignVariable(name):
				unknown = append(unknown, name)
			}
			return key, text
		},
	}))
	slices.Sort(unknown)
	for _, name := range slices.Compact(unknown) {
		l.problems = append(l.problems, unknownVariable(name))
	}
}

// foreignVariable reports whether name is a variable that is not a setting for
// good reason.
func foreignVariable(name string) bool {
	return name == envFile || strings.HasPrefix(name, envTestPrefix) || kubernetesVariable.MatchString(name)
}

func unknownVariable(name string) Problem {
	p := Problem{Key: name, Text: "unknown environment variable"}
	var near string
	names := make([]string, len(settings))
	for i := range settings {
		s := &settings[i]
		names[i] = s.env()
		if s.Short != "" && name == envPrefix+strings.ToUpper(s.Short) {
			near = s.env()
		}
	}
	if near = cmp.Or(near, nearest(name, names, "_")); near != "" {
		p.Hint = "did you mean " + near + "?"
	}
	return p
}

// configFile returns the path of the file and where the user named it.
func configFile(flags *pflag.FlagSet, environ []string) (path, named string) {
	if flags != nil {
		if f := flags.Lookup(fileFlag); f != nil && f.Changed {
			return f.Value.String(), "--" + fileFlag
		}
	}
	for _, variable := range environ {
		if name, value, _ := strings.Cut(variable, "="); name == envFile {
			path = value
		}
	}
	return path, envFile
}
