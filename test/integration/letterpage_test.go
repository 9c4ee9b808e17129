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
