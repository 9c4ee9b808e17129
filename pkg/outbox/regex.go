package outbox

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// compileJava compiles a regular expression of java.util.regex to one that
// finds the same: the first alternative wins in both. What RE2 cannot express,
// or reads in another way without saying so, is an error. One difference is
// left where a value has a line end: $ is only the very end here, and in Java
// also the place before a line end there. Another is that (?i) folds all of
// Unicode here, and ASCII in Java.
// https://docs.oracle.com/en/java/javase/17/docs/api/java.base/java/util/regex/Pattern.html
func compileJava(pattern string) (find, match *regexp.Regexp, err error) {
	t := translator{rest: pattern}
	if err := t.translate(); err != nil {
		return nil, nil, err
	}
	if find, err = regexp.Compile(t.out.String()); err != nil {
		var serr *syntax.Error
		if errors.As(err, &serr) {
			err = fmt.Errorf("%s: %q", serr.Code, serr.Expr)
		}
		return nil, nil, err
	}
	if hasDuplicate(find.SubexpNames()) {
		return nil, nil, errors.New("two groups have the same name")
	}
	match, err = regexp.Compile(`\A(?:` + t.out.String() + `)\z`)
	return find, match, err
}

func hasDuplicate(names []string) bool {
	seen := map[string]bool{}
	for _, name := range names {
		if name != "" && seen[name] {
			return true
		}
		seen[name] = true
	}
	return false
}

// javaLineEnds is what a dot of Java does not match.
const javaLineEnds = "\n\r\u0085\u2028\u2029"

// translator rewrites what RE2 would accept and read in another way than Java,
// and refuses what cannot be rewritten.
type translator struct {
	rest   string // of the pattern
	out    strings.Builder
	class  bool // inside of brackets
	dotAll bool // the dot matches everything
}

var (
	flagGroup  = regexp.MustCompile(`^\(\?([a-zA-Z-]*)[:)]`)
	classStart = regexp.MustCompile(`^\[\^?\]?`)
)

func (t *translator) translate() error {
	if flags := flagGroup.FindStringSubmatch(t.rest); flags != nil && strings.HasSuffix(flags[0], ")") && strings.Trim(flags[1], "is") == "" {
		t.dotAll = strings.Contains(flags[1], "s")
		t.copy(len(flags[0]))
	}
	for t.rest != "" {
		if err := t.next(); err != nil {
			return err
		}
	}
	return nil
}

func (t *translator) copy(n int) { t.replace(n, t.rest[:n]) }

// replace writes s for the next n bytes.
func (t *translator) replace(n int, s string) {
	t.out.WriteString(s)
	t.rest = t.rest[n:]
}

// next translates the next element.
func (t *translator) next() error {
	switch {
	case t.rest[0] == '\\':
		return t.escape()
	case t.class:
		return t.inClass()
	case t.rest[0] == '[':
		t.class = true
		t.copy(len(classStart.FindString(t.rest)))
		return nil
	case t.rest[0] == '.' && !t.dotAll:
		t.replace(1, "[^"+javaLineEnds+"]")
		return nil
	case strings.HasPrefix(t.rest, "{,"):
		return errors.New("a repetition has no lower bound: write {0,n}")
	}
	if flags := flagGroup.FindStringSubmatch(t.rest); flags != nil && strings.Trim(flags[1], "i-") != "" {
		return fmt.Errorf("the flags in %q are not supported here: (?i) is everywhere, (?s) at the beginning", flags[0])
	}
	t.copy(1)
	return nil
}

func (t *translator) inClass() error {
	if t.rest[0] == '[' || strings.HasPrefix(t.rest, "&&") {
		return errors.New("a class inside a class, and && between classes, are not supported")
	}
	t.class = t.rest[0] != ']'
	t.copy(1)
	return nil
}

// escape translates a backslash and what it stands before.
func (t *translator) escape() error {
	if literal, ok := strings.CutPrefix(t.rest, `\Q`); ok {
		literal, t.rest, _ = strings.Cut(literal, `\E`)
		t.out.WriteString(regexp.QuoteMeta(literal))
		return nil
	}
	if len(t.rest) == 1 {
		return errors.New("a backslash at the end stands for nothing")
	}
	switch c := t.rest[1]; {
	case c == 's' && t.class:
		t.replace(2, `\t-\r `)
	case c == 's':
		t.replace(2, `[\t-\r ]`)
	case c == 'S' && !t.class:
		t.replace(2, `[^\t-\r ]`)
	case c == 'v', c == 'S', '0' <= c && c <= '9':
		return fmt.Errorf(`\%c is not supported here`, c)
	default:
		t.copy(2)
	}
	return nil
}
