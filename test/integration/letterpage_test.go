package integration

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// A dead letter is listed and discarded by the instance itself, for who has the token, and
// what was parked behind it is published.
func TestDeadLettersOnThePage(t *testing.T) {
	g := newGraveyard(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("let me\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.set("ADMIN_TOKEN_FILE=" + token)
	p := g.start("run")
	g.write("k", "dead", tooLarge)
	g.write("k", "parked", 10)
	g.write("other", "goes on", 10)
	harness.Eventually(t, 30*time.Second, "a dead letter with an event behind it", func() bool {
		n, _ := harness.Metric(t.Context(), g.admin, "walpost_open_dead_letters")
		m, _ := harness.Metric(t.Context(), g.admin, "walpost_parked_events")
		return n == 1 && m == 1
	})
	if code, _ := g.ask(http.MethodGet, "", "wrong", ""); code != http.StatusUnauthorized {
		t.Errorf("status %d with a wrong token", code)
	}
	if code, body := g.ask(http.MethodGet, "", "let me", ""); code != http.StatusOK || !strings.Contains(body, g.ids["dead"]) || !strings.Contains(body, `"parked":1`) {
		t.Errorf("status %d: %s", code, body)
	}
	if code, body := g.ask(http.MethodPost, "/retry", "let me", g.ids["dead"]); code != http.StatusOK || !strings.Contains(body, `"failed":1`) {
		t.Errorf("retry of what is still too large: status %d: %s", code, body)
	}
	if code, body := g.ask(http.MethodPost, "/discard", "let me", g.ids["dead"]); code != http.StatusOK || !strings.Contains(body, `"published":1`) {
		t.Errorf("discard: status %d: %s", code, body)
	}
	if code, body := g.ask(http.MethodGet, "", "let me", ""); code != http.StatusOK || strings.TrimSpace(body) != "[]" {
		t.Errorf("afterwards, status %d: %s", code, body)
	}
	if got := g.notes(g.topic)["k"]; len(got) != 1 || got[0] != "parked" {
		t.Errorf("published %v of the key, want what was parked", got)
	}
	if log := p.Log(); strings.Contains(log, "let me") {
		t.Errorf("the token is in the log:\n%s", log)
	}
	g.stop(p)
}

func (s *stage) ask(method, path, token, id string) (code int, body string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.admin+"/dead-letters"+path, strings.NewReader(`{"id": "`+id+`"}`))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

// The same by hand: the token is typed, and the buttons are pressed in a real browser.
func TestDeadLettersByHand(t *testing.T) {
	chromium := browser(t)
	g := newGraveyard(t)
	token := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(token, []byte("let me\n"), 0o600))
	g.set("ADMIN_TOKEN_FILE=" + token)
	p := g.start("run")
	g.write("k", "dead", tooLarge)
	g.write("k", "parked", 10)
	harness.Eventually(t, 30*time.Second, "a dead letter with an event behind it", func() bool {
		n, _ := harness.Metric(t.Context(), g.admin, "walpost_open_dead_letters")
		m, _ := harness.Metric(t.Context(), g.admin, "walpost_parked_events")
		return n == 1 && m == 1
	})
	page := harness.OpenPage(t, chromium, "http://"+g.admin+"/")
	shows := func(what, expression, want string) {
		t.Helper()
		got := ""
		harness.Eventually(t, 30*time.Second, what, func() bool {
			got = page.Eval(expression)
			return strings.Contains(got, want)
		})
	}
	const said = `document.getElementById("lettersay").textContent`
	show := func(token string) {
		page.Eval(`document.getElementById("token").value = "` + token + `"; document.getElementById("asktoken").requestSubmit()`)
	}
	press := func(action string) {
		page.Eval(`[...document.querySelectorAll("#letters button")].find(b => b.textContent.trim().toLowerCase() === "` + action + `").click()`)
	}
	shows("the letters are offered", `String(document.getElementById("letters")?.hidden)`, "false")
	page.Eval(`document.getElementById("letterbox").open = true; window.confirm = () => true`)
	show("wrong")
	shows("a wrong token is refused", said, "token")
	show("let me")
	shows("the dead letter", `document.getElementById("letters").textContent`, g.ids["dead"])
	press("retry")
	shows("it is still too large", said, "is still dead")
	press("discard")
	shows("it is gone, and what was behind it published", said, "1 events published")
	if got := g.notes(g.topic)["k"]; len(got) != 1 || got[0] != "parked" {
		t.Errorf("published %v of the key, want what was parked", got)
	}
	g.stop(p)
}
