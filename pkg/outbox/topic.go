package outbox

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// topics makes a topic of a route as Kafka Connect's RegexRouter does: the
// pattern must match the whole route, and then the first thing that it finds
// is replaced, which may be less than the whole. What does not match is the
// topic itself.
// https://github.com/apache/kafka/blob/trunk/connect/transforms/src/main/java/org/apache/kafka/connect/transforms/RegexRouter.java
type topics struct {
	find, match *regexp.Regexp
	replacement []part
	known       map[string]string // route to topic, so that a known one costs no allocation
}

const (
	maxTopics     = 10_000 // beyond it all are forgotten
	maxKnownRoute = 1024   // bytes; a longer route is worked out each time
)

// part is a piece of the replacement: literal text, or a group if literal is
// empty.
type part struct {
	literal string
	group   int
}

func newTopics(pattern, replacement string) (*topics, error) {
	find, match, err := compileJava(pattern)
	if err != nil {
		return nil, problem("route_regex", "write it without what needs backtracking: look-around, back references, possessive quantifiers",
			"parse %q: %w", pattern, err)
	}
	parts, err := parseReplacement(replacement, find)
	if err != nil {
		return nil, problem("topic", `$1 and ${name} are groups of outbox.route_regex; write \$ for a dollar sign`,
			"parse %q: %w", replacement, err)
	}
	return &topics{find: find, match: match, replacement: parts, known: map[string]string{}}, nil
}

// of returns the topic of a route.
func (t *topics) of(route []byte) string {
	if topic, ok := t.known[string(route)]; ok {
		return topic
	}
	topic := t.replace(string(route))
	if len(route) > maxKnownRoute {
		return topic
	}
	if len(t.known) >= maxTopics {
		clear(t.known)
	}
	t.known[string(route)] = topic
	return topic
}

func (t *topics) replace(route string) string {
	if !t.match.MatchString(route) {
		return route
	}
	m := t.find.FindStringSubmatchIndex(route)
	if m == nil {
		return route
	}
	var b strings.Builder
	b.WriteString(route[:m[0]])
	for _, p := range t.replacement {
		b.WriteString(p.literal)
		if start := m[2*p.group]; p.literal == "" && start >= 0 {
			b.WriteString(route[start:m[2*p.group+1]])
		}
	}
	b.WriteString(route[m[1]:])
	return b.String()
}

// parseReplacement reads the syntax of Java's Matcher.appendReplacement.
// https://docs.oracle.com/en/java/javase/17/docs/api/java.base/java/util/regex/Matcher.html
func parseReplacement(s string, re *regexp.Regexp) ([]part, error) {
	var parts []part
	for s != "" {
		n := strings.IndexAny(s, `\$`)
		switch {
		case n < 0:
			return append(parts, part{literal: s}), nil
		case n > 0:
			parts = append(parts, part{literal: s[:n]})
		}
		p, rest, err := parsePart(s[n:], re)
		if err != nil {
			return nil, err
		}
		parts, s = append(parts, p), rest
	}
	return parts, nil
}

// parsePart reads what a backslash or a dollar sign begins.
func parsePart(s string, re *regexp.Regexp) (part, string, error) {
	switch {
	case len(s) == 1:
		return part{}, "", fmt.Errorf("%s at the end stands for nothing", s)
	case s[0] == '\\':
		_, n := utf8.DecodeRuneInString(s[1:])
		return part{literal: s[1 : 1+n]}, s[1+n:], nil
	case s[1] == '{':
		return parseNamed(s[2:], re)
	case '0' <= s[1] && s[1] <= '9':
		return parseNumbered(s[1:], re)
	}
	return part{}, "", errors.New("a dollar sign must be followed by a number or a name in braces")
}

func parseNamed(s string, re *regexp.Regexp) (part, string, error) {
	name, rest, ok := strings.Cut(s, "}")
	if !ok || name == "" {
		return part{}, "", errors.New("${ without a name and a closing brace")
	}
	group := re.SubexpIndex(name)
	if group < 0 {
		return part{}, "", fmt.Errorf("no group is named %q", name)
	}
	return part{group: group}, rest, nil
}

// parseNumbered takes the first digit, and further ones only as long as there
// is a group of that number.
func parseNumbered(s string, re *regexp.Regexp) (part, string, error) {
	group, n := int(s[0]-'0'), 1
	if group > re.NumSubexp() {
		return part{}, "", fmt.Errorf("there is no group %d", group)
	}
	for n < len(s) && '0' <= s[n] && s[n] <= '9' && 10*group+int(s[n]-'0') <= re.NumSubexp() {
		group, n = 10*group+int(s[n]-'0'), n+1
	}
	return part{group: group}, s[n:], nil
}
