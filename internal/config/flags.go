package config

import (
	"errors"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/posflag"
	"github.com/spf13/pflag"
)

const fileFlag = "config"

// AddFlags adds a flag for each setting, the short forms, and --config. They
// take any text: [Load] checks it, to report all problems at once.
func AddFlags(flags *pflag.FlagSet) {
	flags.String(fileFlag, "", "YAML `file` with the configuration")
	for i := range settings {
		s := &settings[i]
		s.addFlag(flags, s.Key, s.usage())
		if s.Short != "" {
			s.addFlag(flags, s.Short, "Short for --"+s.Key+".")
		}
		for _, former := range s.Was {
			s.addFlag(flags, former, "Now --"+s.Key+".")
			flags.Lookup(former).Hidden = true
		}
	}
}

// IsSetting reports whether AddFlags has added f, and not the command itself.
func IsSetting(f *pflag.Flag) bool {
	_, is := f.Value.(*flagValue)
	return is || f.Name == fileFlag
}

func (s *setting) addFlag(flags *pflag.FlagSet, name, usage string) {
	f := flags.VarPF(&flagValue{setting: s, text: s.Default}, name, "", usage)
	if s.kind == kindBool {
		f.NoOptDefVal = "true"
	}
}

func (s *setting) usage() string {
	if s.Means == "" {
		return s.describe()
	}
	return s.describe() + " Default: " + s.Means + "."
}

// flagValue is the text of a flag. A list's flag may be repeated.
type flagValue struct {
	setting *setting
	text    string
	set     bool
}

// String implements [pflag.Value].
func (v *flagValue) String() string { return v.text }

// Set implements [pflag.Value].
func (v *flagValue) Set(text string) error {
	if v.set && v.setting.kind == kindList {
		text = v.text + "," + text
	}
	v.text, v.set = text, true
	return nil
}

// Type implements [pflag.Value].
func (v *flagValue) Type() string {
	if v.setting.kind == kindSecret {
		return string(kindText)
	}
	return string(v.setting.kind)
}

func (l *loader) loadFlags(flags *pflag.FlagSet) {
	if flags == nil {
		return
	}
	given := map[string]string{} // the flag by its key
	flags.Visit(func(f *pflag.Flag) {
		v, ok := f.Value.(*flagValue)
		if !ok {
			return
		}
		key := v.setting.Key
		l.origins[key] = origin{source: SourceFlag, name: "--" + f.Name}
		if other := given[key]; other != "" {
			l.refuse(key, "means the same as --"+other, "use one of the two")
		}
		given[key] = f.Name
		if f.Name != v.setting.Short {
			l.note("--"+f.Name, "--"+key, "")
		}
	})
	l.add(posflag.ProviderWithFlag(flags, ".", nil, func(f *pflag.Flag) (string, any) {
		if v, ok := f.Value.(*flagValue); ok {
			return v.setting.Key, v.text
		}
		return "", nil
	}))
}

// FlagError returns an [*Error] for what the flags' parser says of args. If it has met a flag that
// is unknown, it has each that is, with the nearest known one as a hint.
func FlagError(flags *pflag.FlagSet, args []string, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return &Error{[]Problem{{Text: err.Error()}}}
	}
	var known []string
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			known = append(known, f.Name)
		}
	})
	names := unknownFlags(flags, args)
	if first := unknown.GetSpecifiedName(); !slices.Contains(names, first) {
		names = append([]string{first}, names...)
	}
	var problems []Problem
	for _, name := range names {
		p := Problem{Key: "--" + name, Text: "unknown flag"}
		if near := nearest(name, known, "."); near != "" {
			p.Hint = "did you mean --" + near + "?"
		}
		problems = append(problems, p)
	}
	return &Error{problems}
}

// shorthand returns the flag that takes the argument behind arg, as in -o, if it may.
func shorthand(flags *pflag.FlagSet, arg string) *pflag.Flag {
	if len(arg) != 2 || arg[0] != '-' {
		return nil
	}
	return flags.ShorthandLookup(arg[1:])
}

// unknownFlags returns the long flags that are not known, each once. What may be the value of one
// that is known is passed over.
func unknownFlags(flags *pflag.FlagSet, args []string) (names []string) {
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		long, isLong := strings.CutPrefix(args[i], "--")
		if !isLong {
			if f := shorthand(flags, args[i]); f != nil && f.NoOptDefVal == "" {
				i++ // its value
			}
			continue
		}
		name, _, whole := strings.Cut(long, "=")
		f := flags.Lookup(name)
		switch {
		case f == nil && !slices.Contains(names, name):
			names = append(names, name)
		case f != nil && !whole && f.NoOptDefVal == "":
			i++ // its value
		}
	}
	return names
}
