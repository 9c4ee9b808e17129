package outbox

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// routing is one question to a router.
type routing struct{ pattern, replacement, value string }

func (r routing) topic() (string, error) {
	t, err := newTopics(r.pattern, r.replacement)
	if err != nil {
		return "", err
	}
	return t.of([]byte(r.value)), nil
}

// The answers are those of Java 17, see TestTopicAgainstJava.
var routings = []struct {
	routing
	want string
}{
	{routing{DefaultRouteRegex, DefaultTopic, "order"}, "outbox.event.order"},
	{routing{DefaultRouteRegex, DefaultTopic, ""}, "outbox.event."},
	{routing{DefaultRouteRegex, DefaultTopic, "größe 😀"}, "outbox.event.größe 😀"},
	{routing{DefaultRouteRegex, DefaultTopic, "a\nb"}, "a\nb"},
	{routing{DefaultRouteRegex, DefaultTopic, "a\rb"}, "a\rb"},
	{routing{DefaultRouteRegex, DefaultTopic, "a\u0085b"}, "a\u0085b"},
	{routing{DefaultRouteRegex, DefaultTopic, "a\u2028b"}, "a\u2028b"},
	{routing{DefaultRouteRegex, DefaultTopic, "a\u2029b"}, "a\u2029b"},
	{routing{"(?s)(.*)", "x$1", "a\r\n\u2028b"}, "xa\r\n\u2028b"},
	{routing{"(?si)(A.)", "x$1", "a\n"}, "xa\n"},
	{routing{"(?<routedByValue>.*?)", "evt.${routedByValue}.v1", "order"}, "evt..v1order"},
	{routing{"order|order-line", "T", "order-line"}, "T-line"},
	{routing{"order-line|order", "T", "order-line"}, "T"},
	{routing{"order", "T", "orders"}, "orders"},
	{routing{"(a)(b)(c)", "$11", "abc"}, "a1"},
	{routing{"(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)(k)", "$11-$12", "abcdefghijk"}, "k-a2"},
	{routing{"(a)|(b)", "[$1$2]", "b"}, "[b]"},
	{routing{"(a)", "$0$01${x", "a"}, "!"},
	{routing{"(?<x>a)", `\$${x}\\\q`, "a"}, `$a\q`},
	{routing{"(a)", "$2", "a"}, "!"},
	{routing{"(a)", "$", "a"}, "!"},
	{routing{"(a)", `\`, "a"}, "!"},
	{routing{"(a)", "$x", "a"}, "!"},
	{routing{"(a)", "${}", "a"}, "!"},
	{routing{"(a)", "${nope}", "a"}, "!"},
	{routing{"(?<x>a)", "$${x}", "a"}, "!"},
	{routing{`\s+`, "_", "\v "}, "_"},
	{routing{`\S+`, "_", "a\v"}, "a\v"},
	{routing{`[\s]+`, "_", "\v "}, "_"},
	{routing{`\Qa.b\E(.)`, "$1", "a.bc"}, "c"},
	{routing{`[\w.-]+`, "t", "a-b.c_9"}, "t"},
	{routing{`(?i)ORDER`, "t", "order"}, "t"},
	{routing{`[^]]x`, "t", "ax"}, "t"},
	{routing{`(\w+)\.(\w+)`, "$2.$1", "a.b"}, "b.a"},
	{routing{`\p{L}+\d{1,2}`, "t", "äö12"}, "t"},
	{routing{`a$`, "t", "a\n"}, "a\n"},
	{routing{`(a|ab)(c|bcd)(d*)`, "$1-$2-$3", "abcd"}, "a-bcd-"},
}

func TestTopic(t *testing.T) {
	for _, tt := range routings {
		t.Run(fmt.Sprintf("%q", tt.routing), func(t *testing.T) {
			got, err := tt.topic()
			if err != nil {
				got = "!"
			}
			if got != tt.want {
				t.Errorf("got %q (%v), want %q", got, err, tt.want)
			}
		})
	}
}

// What RE2 lacks, or would read in another way than Java, must not pass.
func TestTopicRefusesPattern(t *testing.T) {
	for _, p := range []string{
		"(?=a)", "(?!a)", "(?<=a)", "(?<!a)", `(a)\1`, "a*+", "(?>a)", "[a&&b]", "[a[b]]", "[[:alpha:]]", `\v`, `\h`, `\R`, `[\b]`,
		`[\S]`, `\0101`, `\Z`, `\G`, "(?U)a*", "(?m)^a", "(?m)a$", "(?x)a b", "a{,3}", "(?s:.)", "a(?s).", "(?-s).", "(", "[a", `\`, "(?<a>b)(?<a>c)", `\é`, "a{1001}",
	} {
		if _, err := newTopics(p, "x"); err == nil {
			t.Errorf("pattern %q is accepted", p)
		} else if !strings.Contains(err.Error(), "outbox.route_regex") {
			t.Errorf("error %q does not name the setting", err)
		}
	}
}

func TestTopicCacheIsBounded(t *testing.T) {
	topics, err := newTopics(DefaultRouteRegex, DefaultTopic)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxTopics + 10 {
		if got, want := topics.of(fmt.Append(nil, i)), fmt.Sprintf("outbox.event.%d", i); got != want {
			t.Fatalf("topic %q, want %q", got, want)
		}
	}
	long := strings.Repeat("x", maxKnownRoute+1)
	if got, want := topics.of([]byte(long)), "outbox.event."+long; got != want {
		t.Errorf("topic of a long route is %q", got)
	}
	if got := len(topics.known); got > maxTopics {
		t.Errorf("%d topics are kept, want at most %d", got, maxTopics)
	}
	if _, ok := topics.known[long]; ok {
		t.Error("a long route is kept")
	}
}

// Java itself is the oracle: of the table above, and of random questions.
func TestTopicAgainstJava(t *testing.T) {
	java, err := exec.LookPath("java")
	if err != nil {
		t.Skip("no java in PATH")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var questions []routing
	for _, tt := range routings {
		questions = append(questions, tt.routing)
	}
	for len(questions) < 10_000 {
		q := randomRouting(rng)
		if strings.Contains(q.pattern, "$") && strings.ContainsAny(q.value, javaLineEnds) {
			continue // the difference that compileJava tells of
		}
		questions = append(questions, q)
	}
	for i, want := range askJava(t, java, questions) {
		q := questions[i]
		got, err := q.topic()
		if want == "?" || err != nil && i >= len(routings) {
			continue // nobody uses it with Debezium, or it is refused with a reason
		}
		if err != nil {
			got = "!"
		}
		if i < len(routings) && got != routings[i].want || got != want {
			t.Errorf("%q: got %q, Java has %q", q, got, want)
		}
	}
}

func askJava(t *testing.T, java string, questions []routing) []string {
	t.Helper()
	var in bytes.Buffer
	enc := base64.StdEncoding.EncodeToString
	for _, q := range questions {
		fmt.Fprintln(&in, enc([]byte(q.pattern)), enc([]byte(q.replacement)), enc([]byte(q.value)))
	}
	cmd := exec.CommandContext(t.Context(), java, "-Xshare:auto", "testdata/RegexRouter.java")
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("java: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	for i, line := range lines {
		if line == "!" || line == "?" {
			continue
		}
		topic, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		lines[i] = string(topic)
	}
	return lines
}

func randomRouting(rng *rand.Rand) routing {
	pick := func(n int, from ...string) string {
		var b strings.Builder
		for range rng.IntN(n) {
			b.WriteString(from[rng.IntN(len(from))])
		}
		return b.String()
	}
	return routing{
		[]string{"", "", "(?s)"}[rng.IntN(3)] + "(" + pick(6, "a", "b", ".", "x", "(a|ab)", "(?<n>b.)", "*", "?", "+", "|", "[ab]", "[^a]", "^", "$", `\.`, `\s`, "{1,2}", "*?") + ")" + pick(3, ".*", "b?", "(x)?"),
		pick(5, "t", "-", "$1", "$2", "${n}", `\$`, "$10", "$0"),
		pick(6, "a", "b", "x", ".", "\n", "\r", " ", "\v", "\u0085", "ä"),
	}
}

// FuzzTopic compares with a model of literal patterns and of no group but the
// whole match.
func FuzzTopic(f *testing.F) {
	f.Add("order", "T", "order")
	f.Add("", "x", "")
	f.Add("a|b", "$0", "a")
	f.Fuzz(func(t *testing.T, literal, replacement, value string) {
		if got, err := (routing{literal, replacement, value}).topic(); err == nil && !strings.ContainsAny(replacement, `\$`) {
			checkReplaced(t, got, replacement, value)
		}
		quoted := strings.NewReplacer(`\`, `\\`, `$`, `\$`).Replace(replacement)
		got, err := routing{regexp.QuoteMeta(literal), quoted, value}.topic()
		if err != nil {
			return // not UTF-8
		}
		want := value
		if value == literal {
			want = replacement
		}
		if got != want {
			t.Errorf("%q is %q for %q, want %q", literal, got, value, want)
		}
	})
}

// checkReplaced checks that the topic is the value, or has the replacement in
// it with a beginning and an end of the value around.
func checkReplaced(t *testing.T, topic, replacement, value string) {
	t.Helper()
	if topic == value {
		return
	}
	for i := range len(topic) - len(replacement) + 1 {
		if topic[i:i+len(replacement)] == replacement && strings.HasPrefix(value, topic[:i]) && strings.HasSuffix(value, topic[i+len(replacement):]) {
			return
		}
	}
	t.Errorf("topic %q of %q is not the value with a part replaced by %q", topic, value, replacement)
}
