package config

import (
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// kind is what a setting's value looks like, in the words of the command's
// help.
type kind string

const (
	kindText     kind = "string"
	kindBool     kind = "bool"
	kindInt      kind = "int"
	kindDuration kind = "duration"
	kindBytes    kind = "bytes"
	kindList     kind = "list"
	kindSecret   kind = "secret"
)

// parser reads a value. Its errors never quote a secret.
type parser[T any] struct {
	kind    kind
	choices []string // if there are only so many
	parse   func(string) (T, error)
}

func invalid[T any](text, hint string) (T, error) {
	var zero T
	return zero, &invalidError{text, hint}
}

// anything takes anything.
var anything = parser[string]{kind: kindText, parse: func(s string) (string, error) { return s, nil }}

// anySecret takes anything.
var anySecret = parser[Secret]{kind: kindSecret, parse: func(s string) (Secret, error) { return Secret(s), nil }}

// required takes anything but nothing.
var required = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	if s == "" {
		return invalid[string]("is empty", "")
	}
	return s, nil
}}

// maxName is the longest identifier in Postgres, in bytes.
// https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS
const maxName = 63

// identifier takes what can name a publication or a column, as it is, not quoted.
var identifier = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	if s == "" || len(s) > maxName || strings.ContainsRune(s, 0) {
		return invalid[string](strconv.Quote(s)+" is not a name", "1 to 63 bytes, without quotes around it")
	}
	return s, nil
}}

// optionalIdentifier takes what identifier does, or nothing.
var optionalIdentifier = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	return identifier.parse(s)
}}

var topicPattern = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// optionalTopic takes what Kafka takes for a topic, or nothing.
var optionalTopic = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	if s != "" && (!topicPattern.MatchString(s) || s == "." || s == "..") {
		return invalid[string](strconv.Quote(s)+" is not a topic's name", "1 to 249 letters, digits, dots, underscores and hyphens")
	}
	return s, nil
}}

var slotPattern = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// slotName takes what Postgres takes for a slot.
// https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS-MANIPULATION
var slotName = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	if !slotPattern.MatchString(s) {
		return invalid[string](strconv.Quote(s)+" is not a slot's name", "1 to 63 lower-case letters, digits and underscores")
	}
	return s, nil
}}

var boolean = parser[bool]{kind: kindBool, parse: func(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return invalid[bool](strconv.Quote(s)+" is not a yes or no", "true or false")
}}

// unlimited is the most that a number may be where there is no limit.
const unlimited = math.MaxInt64

// within refuses what is not from least to most.
func within[T ~int | ~int64](p parser[T], least, most T) parser[T] {
	parse := p.parse
	p.parse = func(s string) (T, error) {
		v, err := parse(s)
		switch {
		case err != nil:
			return 0, err
		case v < least:
			return invalid[T](strconv.Quote(s)+" is too little", fmt.Sprint("at least ", least))
		case v > most:
			return invalid[T](strconv.Quote(s)+" is too much", fmt.Sprint("at most ", most))
		}
		return v, nil
	}
	return p
}

// orZero takes zero beside what p takes.
func orZero[T ~int | ~int64](p parser[T]) parser[T] {
	parse := p.parse
	p.parse = func(s string) (T, error) {
		if s == "0" {
			return 0, nil
		}
		return parse(s)
	}
	return p
}

// atLeast takes what is no shorter.
func atLeast(least time.Duration) parser[time.Duration] { return within(duration, least, unlimited) }

var duration = parser[time.Duration]{kind: kindDuration, parse: func(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return invalid[time.Duration](strconv.Quote(s)+" is not a duration", durationHint(s))
	}
	return d, nil
}}

// span is a duration that may be long: it takes days too, as in 7d or 1d12h. It is never
// negative, since an age that is would be taken for none.
var span = parser[time.Duration]{kind: kindDuration, parse: func(s string) (d time.Duration, err error) {
	rest := s
	if days, after, found := strings.Cut(s, "d"); found {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return invalid[time.Duration](strconv.Quote(s)+" is not a duration", "a number with a unit, as in 90m, 36h, 7d or 1d12h")
		}
		d, rest = time.Duration(n)*24*time.Hour, after
	}
	if rest == "" && d > 0 {
		return d, nil
	}
	more, err := duration.parse(rest)
	if err == nil && more < 0 {
		return invalid[time.Duration](strconv.Quote(s)+" is negative", "an age, as in 36h or 7d")
	}
	return d + more, err
}}

// ParseSpan reads a duration that may be long, as in 90m, 36h, 7d or 1d12h, and is not negative.
func ParseSpan(s string) (time.Duration, error) { return orZero(span).parse(s) }

func durationHint(s string) string {
	if _, err := strconv.ParseUint(s, 10, 32); err == nil {
		return "add a unit: " + s + "s or " + s + "ms"
	}
	return "a number with a unit, as in 500ms, 10s or 1m30s"
}

var byteCount = parser[Bytes]{kind: kindBytes, parse: ParseBytes}

var integer = parser[int]{kind: kindInt, parse: func(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return invalid[int](strconv.Quote(s)+" is not a number", "digits only, as in 1000000")
	}
	return n, nil
}}

// oneOf takes one of the choices, in any case.
func oneOf[T ~string](choices ...T) parser[T] {
	names := make([]string, 0, len(choices))
	for _, c := range choices {
		if c != "" {
			names = append(names, string(c))
		}
	}
	return parser[T]{kind: kindText, choices: names, parse: func(s string) (T, error) {
		for _, c := range choices {
			if strings.EqualFold(s, string(c)) {
				return c, nil
			}
		}
		return invalid[T](strconv.Quote(s)+" is not one of the choices", strings.Join(names, ", "))
	}}
}

var logLevel = parser[slog.Level]{
	kind: kindText, choices: []string{"debug", "info", "warn", "error"},
	parse: func(s string) (slog.Level, error) {
		name, err := oneOf("debug", "info", "warn", "error").parse(s)
		if err != nil {
			return 0, err
		}
		var l slog.Level
		return l, l.UnmarshalText([]byte(name))
	},
}

// broker takes a host with or without a port.
var broker = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, " /") || strings.Contains(s, ":") && !isAddress(s) {
		return invalid[string](strconv.Quote(s)+" is not an address", "host:port, as in localhost:9092 or [::1]:9092")
	}
	return s, nil
}}

// listenAddress takes an address to listen on, whose host may be missing, or
// nothing.
var listenAddress = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	if s != "" && !isAddress(s) {
		return invalid[string](strconv.Quote(s)+" is not an address", "host:port, as in 127.0.0.1:9187; empty turns it off")
	}
	return s, nil
}}

func isAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// existingFile takes the path of a file that is there, or nothing.
var existingFile = parser[string]{kind: kindText, parse: func(s string) (string, error) { return existing(s, false) }}

// secretFile takes the path of a secret that can be read, or nothing.
var secretFile = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if _, err := ReadSecret(s); err != nil {
		return invalid[string](pathProblem(err), "")
	}
	return s, nil
}}

// existingFolder takes the path of a folder that is there, or nothing.
var existingFolder = parser[string]{kind: kindText, parse: func(s string) (string, error) { return existing(s, true) }}

func existing(path string, wantDir bool) (string, error) {
	if path == "" {
		return "", nil
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return invalid[string](pathProblem(err), "")
	case info.IsDir() && !wantDir:
		return invalid[string](path+" is a folder", "")
	case !info.IsDir() && wantDir:
		return invalid[string](path+" is not a folder", "")
	}
	return path, nil
}

// newFile takes the path of a file that may not be there yet, in a folder that
// is, or nothing.
var newFile = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if _, err := existing(filepath.Dir(s), true); err != nil {
		return "", err
	}
	if info, err := os.Stat(s); err == nil && info.IsDir() {
		return invalid[string](s+" is a folder", "")
	}
	return s, nil
}}

// optionalBucket takes s3://bucket/prefix, or nothing.
var optionalBucket = parser[string]{kind: kindText, parse: func(s string) (string, error) {
	u, err := url.Parse(s)
	if s != "" && (err != nil || u.Scheme != "s3" || u.Host == "" || u.RawQuery != "" || u.User != nil) {
		return invalid[string](strconv.Quote(s)+" is not a bucket", "s3://bucket or s3://bucket/prefix")
	}
	return s, nil
}}
