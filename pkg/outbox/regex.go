package outbox

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"
)

// compileJava compiles a regular expression of java.util.regex to one that
// finds the same: the first alternative wins in both. What RE2 cannot express,
// or reads in another way without saying so, is an error. One difference is
// left where a value has a line end: $ is only the very end here, and in Java
// also the place before a line end there. Another is that (?i) folds all of
// Unicode here, and ASCII in Java.
// https://docs.oracle.com/en/java/javase/17/docs/api/java.base/java/util/regex/Pattern.html
func compileJava(pattern string) (find, match *regexp.Regexp, err error) {
	translated, err := translateEscapes(pattern)
	if err != nil {
		return nil, nil, err
	}
	tree, err := syntax.Parse(translated, syntax.Perl)
	if err != nil {
		var serr *syntax.Error
		if errors.As(err, &serr) {
			err = fmt.Errorf("%s: %q", serr.Code, serr.Expr)
		}
		return nil, nil, err
	}
	if err := javaTree(tree); err != nil {
		return nil, nil, err
	}
	if find, err = regexp.Compile(tree.String()); err != nil {
		return nil, nil, err
	}
	if names := find.SubexpNames(); hasDuplicate(names) {
		return nil, nil, errors.New("two groups have the same name")
	}
	match, err = regexp.Compile(`\A(?:` + tree.String() + `)\z`)
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

// javaDot is what the dot of Java does not match.
var javaDot = []rune{'\n', '\r', '\u0085', '\u2028', '\u2029'}

// javaTree gives the parts of the tree their meaning in Java.
func javaTree(re *syntax.Regexp) error {
	switch re.Op {
	case syntax.OpAnyCharNotNL:
		re.Op = syntax.OpCharClass
		next := rune(0)
		for _, r := range javaDot {
			if r > next {
				re.Rune = append(re.Rune, next, r-1)
			}
			next = r + 1
		}
		re.Rune = append(re.Rune, next, unicode.MaxRune)
	case syntax.OpBeginLine, syntax.OpEndLine:
		return errors.New("the flag (?m) is not supported")
	}
	for _, sub := range re.Sub {
		if err := javaTree(sub); err != nil {
			return err
		}
	}
	return nil
}

// translateEscapes rewrites what RE2 would accept and read in another way than
// Java, and refuses what cannot be rewritten.
func translateEscapes(p string) (string, error) {
	var b strings.Builder
	class := false // inside of brackets
	for i := 0; i < len(p); i++ {
		switch c := p[i]; {
		case strings.HasPrefix(p[i:], `\Q`):
			literal, _, _ := strings.Cut(p[i+2:], `\E`)
			b.WriteString(regexp.QuoteMeta(literal))
			i += len(`\Q`) + len(literal) + len(`\E`) - 1
		case c == '\\' && i+1 < len(p):
			i++
			s, err := translateEscape(p[i], class)
			if err != nil {
				return "", err
			}
			b.WriteString(s)
		case class && (c == '[' || strings.HasPrefix(p[i:], "&&")):
			return "", errors.New("a class inside a class, and && between classes, are not supported")
		case !class && strings.HasPrefix(p[i:], "{,"):
			return "", errors.New("a repetition without a lower bound: write {0,n}")
		case !class && ungreedy.MatchString(p[i:]):
			return "", errors.New("the flag (?U) is not supported")
		case !class && c == '[':
			class = true
			n := len(classStart.FindString(p[i:]))
			b.WriteString(p[i : i+n])
			i += n - 1
		default:
			class = class && c != ']'
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}

var (
	ungreedy   = regexp.MustCompile(`^\(\?[a-z]*U`)
	classStart = regexp.MustCompile(`^\[\^?\]?`)
)

// translateEscape translates a backslash and c.
func translateEscape(c byte, class bool) (string, error) {
	switch {
	case c == 's' && class:
		return `\t-\r `, nil
	case c == 's':
		return `[\t-\r ]`, nil
	case c == 'S' && !class:
		return `[^\t-\r ]`, nil
	case c == 'v', c == 'S', '0' <= c && c <= '9', c == 'b' && class:
		return "", fmt.Errorf(`\%c is not supported here`, c)
	}
	return string([]byte{'\\', c}), nil
}
