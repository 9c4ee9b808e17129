package integration

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/test/harness"
)

// What must not be told, each with a part that stays itself in every quoting and in a
// URL.
var (
	dsnSecret     = secret{"the database password", "PgPw8tKvX4mQ", ` %/@':"`}
	saslSecret    = secret{"the SASL password", "KaPw5nRzL2wB", ` %/@':"`}
	payloadSecret = secret{"a payload", "PaYl3cHsJ7yD", ""}
	keySecret     = secret{"a key", "KeYs6fGdT1vN", ""}
	headerSecret  = secret{"a header's value", "HeAd9bWqM5zE", ""}
)

type secret struct{ what, core, rest string }

func (s secret) String() string { return s.core + s.rest }

// in reports whether text holds the secret, also as base64, wherever that begins, or
// in hexadecimal.
func (s secret) in(text string) bool {
	forms := []string{strings.ToLower(s.core), hex.EncodeToString([]byte(s.core))}
	for skipped := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", skipped) + s.core))
		forms = append(forms, strings.ToLower(encoded[skipped+1:len(encoded)-1])) // the ends depend on the neighbours
	}
	text = strings.ToLower(text)
	for _, form := range forms {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

// Every form of a secret is found by the test that looks for it.
func TestSecretIsFound(t *testing.T) {
	for _, form := range []string{
		dsnSecret.String(), url.QueryEscape(dsnSecret.String()), fmt.Sprintf("%q", dsnSecret), fmt.Sprintf("%x", dsnSecret.String()), fmt.Sprintf("%X", dsnSecret.String()),
		base64.StdEncoding.EncodeToString([]byte("\x00walpost\x00" + dsnSecret.String())), base64.URLEncoding.EncodeToString([]byte("ab" + dsnSecret.String())),
		base64.StdEncoding.EncodeToString([]byte("abc" + dsnSecret.String())), base64.StdEncoding.EncodeToString([]byte("a" + dsnSecret.String())),
	} {
		if !dsnSecret.in("... " + form + " ...") {
			t.Errorf("not found in %s", form)
		}
	}
	if dsnSecret.in(saslSecret.String()) {
		t.Error("found where it is not")
	}
}

// tightLipped is a stage on which everything that should not be told is recognisable.
type tightLipped struct {
	*stage
	t     *testing.T
	kafka *secureKafka
	dsn   string // keywords
}

func newTightLipped(t *testing.T, k *secureKafka) *tightLipped {
	t.Helper()
	s := newStage(t, envtest.NewDatabase(t), k.Addrs())
	s.db.Exec(t, `ALTER TABLE outbox ADD part int, ADD head text, ALTER aggregateid DROP NOT NULL;
		ALTER ROLE `+s.slot+` PASSWORD '`+strings.ReplaceAll(dsnSecret.String(), "'", "''")+`'`)
	s.set(k.login(saslListener, "SCRAM-SHA-256", saslSecret.String())...)
	s.set("LOG_LEVEL=debug", "OUTBOX_PLACE=part:partition,head:header", "KAFKA_CREATE_TOPICS=true", "CHECKPOINT_INTERVAL=100ms", "DELIVERY_RETRY_MAX=1s", "DELIVERY_DRAIN_TIMEOUT=2s")
	l := &tightLipped{stage: s, t: t, kafka: k, dsn: s.dsnWith(t, s.slot, `'`+strings.ReplaceAll(dsnSecret.String(), "'", `\'`)+`'`)}
	s.set("POSTGRES_DSN=" + l.dsn)
	return l
}

// check fails the test if text holds a secret that is not allowed there.
func (l *tightLipped) check(where, text string, allowed ...secret) {
	l.t.Helper()
next:
	for _, s := range []secret{dsnSecret, saslSecret, payloadSecret, keySecret, headerSecret} {
		for _, a := range allowed {
			if s == a {
				continue next
			}
		}
		if s.in(text) {
			l.t.Errorf("%s tells %s:\n%.3000s", where, s.what, text)
		}
	}
}

// write commits an event of the secret key. The payload has at least size bytes.
func (l *tightLipped) write(size int, key, part any) {
	l.t.Helper()
	_, err := l.conn.Exec(l.t.Context(), `INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, seq, part, head)
		VALUES (gen_random_uuid(), 'order', $1, 'created', jsonb_build_object('note', $2::text, 'fill', repeat('x', $3)), 0, $4, $5)`,
		key, payloadSecret.String(), size, part, headerSecret.String())
	if err != nil {
		l.t.Fatal(err)
	}
}

// probe asks the admin server everything it may have.
func (l *tightLipped) probe() {
	l.t.Helper()
	for _, path := range []string{"/", "/livez", "/readyz", "/metrics", "/status", "/config", "/debug/vars", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2"} {
		l.check(path, get(l.t.Context(), l.admin, path))
	}
}

func get(ctx context.Context, addr, path string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return err.Error()
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	body, _ := io.ReadAll(res.Body)
	return string(body)
}

// fails wants a command to end with an exit code, and to tell nothing.
func (l *tightLipped) fails(code int, args ...string) {
	l.t.Helper()
	p := l.start(args...)
	if got := l.wait(p, time.Minute); got != code {
		l.t.Errorf("walpost %s: exit %d, want %d\n%s", strings.Join(args, " "), got, code, p.Log())
	}
	l.check("walpost "+strings.Join(args[:1], " "), p.Log())
}

// Whatever goes wrong, and however much is logged: passwords, payloads, keys and header
// values are told nowhere. Only dlq shows events: list their keys, show all of one.
func TestSecretsAreNotTold(t *testing.T) {
	k := newSecureKafka(t)
	k.allowAll(t)
	k.setPassword(t, saslSecret.String())
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			l := newTightLipped(t, k)
			l.set("LOG_FORMAT=" + format)
			l.set("DELIVERY_POISON=dead-letter", "DELIVERY_DEAD_LETTER_TOPIC="+l.topic+".dead")
			l.outages()
			l.commands()
			l.refusals()
		})
	}
}

// outages breaks a running walpost in every way that it goes on from, and has it meet
// every kind of poison.
func (l *tightLipped) outages() {
	l.t.Helper()
	p := l.start("run")
	l.isReady(time.Minute)
	l.write(10, keySecret.String(), 0)
	l.write(tooLarge, keySecret.String(), nil)
	l.write(10, keySecret.String(), nil)
	l.write(10, nil, nil)
	l.write(10, keySecret.String()+"2", 1000) // there is no such partition
	l.caughtUp(time.Minute)
	l.probe()
	l.endSessions()
	l.write(10, "other", nil)
	l.caughtUp(time.Minute)
	l.db.Exec(l.t, "ALTER ROLE "+l.slot+" PASSWORD 'another'")
	l.endSessions()
	l.fault(p, "password authentication failed")
	l.db.Exec(l.t, "ALTER ROLE "+l.slot+" PASSWORD '"+strings.ReplaceAll(dsnSecret.String(), "'", "''")+"'")
	l.write(10, "other", nil)
	l.caughtUp(time.Minute)
	l.stop(p)
	l.check("walpost run", p.Log())

	l.kafka.setPassword(l.t, "another")
	defer l.kafka.setPassword(l.t, saslSecret.String())
	l.write(10, keySecret.String()+"4", nil)
	p = l.start("run")
	l.fault(p, "SASL_AUTHENTICATION_FAILED")
	p.Signal(syscall.SIGTERM)
	l.wait(p, 30*time.Second) // what it had in flight it could not deliver
	l.check("walpost run", p.Log())
}

// fault waits until walpost has logged a reason for not being ready, and probes it then.
func (l *tightLipped) fault(p *harness.Process, reason string) {
	l.t.Helper()
	harness.Eventually(l.t, 30*time.Second, "/readyz 503 and "+reason, func() bool {
		code, _ := l.ready()
		return code == 503 && strings.Contains(p.Log(), reason)
	})
	l.probe()
}

// commands runs those that report.
func (l *tightLipped) commands() {
	l.t.Helper()
	for _, output := range []string{"text", "json"} {
		for _, args := range [][]string{{"config"}, {"config", "--example"}, {"checkpoint", "show"}, {"init", "--no-table"}, {"init", "--print"}, {"version"}} {
			l.check("walpost "+args[0], l.walpost(append(args, "--output", output)...))
		}
		list := l.walpost("dlq", "list", "--output", output)
		l.check("walpost dlq list", list, keySecret)
		for _, want := range []cdc.PoisonReason{cdc.PoisonOversize, cdc.PoisonKey, cdc.PoisonRow} {
			if !strings.Contains(list, string(want)) || !keySecret.in(list) {
				l.t.Errorf("dlq list shows no key, or nothing that is dead for its %s: the test has shown nothing\n%s", want, list)
			}
		}
	}
}

// refusals ends walpost in every way that it does not go on from.
func (l *tightLipped) refusals() {
	l.t.Helper()
	l.fails(1, "run", "--postgres.publication", "none")
	l.fails(1, "run", "--outbox.table", "public.none")
	l.fails(1, "run", "--dsn", strings.Replace(l.dsn, "user="+l.slot, "user=postgres", 1)) // of whom it is not the password
	u := url.URL{Scheme: "postgres", User: url.UserPassword("nobody", dsnSecret.String()), Host: fmt.Sprintf("127.0.0.1:%d", l.conn.Config().Port), Path: "/" + l.db.Name}
	l.fails(1, "run", "--dsn", u.String())
	l.fails(1, "checkpoint", "show", "--dsn", u.String())
	l.fails(1, "init", "--dsn", u.String())
	l.fails(1, "init", "--dsn", l.dsn+" host=127.0.0.1 port=1")
	l.fails(2, "run", "--dsn", u.String()+"?sslmode="+dsnSecret.core)
	l.fails(2, "run", "--dsn", strings.Replace(u.String(), "%25", "%", 1))
	l.fails(2, "config", "--dsn", "host=x password='"+dsnSecret.core)
	l.fails(2, "run", "--kafka.sasl.mechanism", "NTLM")
	l.fails(2, "config", "--kafka.sasl.mechanism", "")
	l.set("DELIVERY_POISON=stop", "DELIVERY_DEAD_LETTER_TOPIC="+l.topic+".none") // in the other one keys are parked
	l.write(tooLarge, keySecret.String()+"5", nil)
	p := l.start("run")
	if code := l.wait(p, time.Minute); code != 1 || !strings.Contains(p.Log(), "record takes") {
		l.t.Errorf("exit %d, want 1 with the row\n%s", code, p.Log())
	}
	l.check("walpost run", p.Log())
}
