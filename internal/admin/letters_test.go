package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/walpost/walpost/pkg/cdc"
)

// fakeLetters notes what it was asked for.
type fakeLetters struct{ asked []string }

func (f *fakeLetters) List(context.Context) (any, error) {
	f.asked = append(f.asked, "list")
	return []string{"a"}, nil
}

func (f *fakeLetters) Settle(_ context.Context, action cdc.Action, id string) (any, error) {
	f.asked = append(f.asked, string(action)+" "+id)
	if id == "gone" {
		return nil, errors.New("no such letter")
	}
	return map[string]int{"lots": 1}, nil
}

// Dead letters are shown and settled with the token alone, and are not there at all where
// they are turned off.
func TestLettersNeedTheToken(t *testing.T) {
	letters := &fakeLetters{}
	cfg := Config{Gatherer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)}
	off := Handler(cfg)
	noToken := cfg
	noToken.Letters = letters
	cfg.Letters, cfg.Token = letters, "secret"
	for _, tt := range []struct {
		h                   http.Handler
		method, path, token string
		body                string
		code                int
		asked               string
	}{
		{off, "GET", "/dead-letters", "Bearer secret", "", http.StatusNotFound, ""},
		{Handler(noToken), "GET", "/dead-letters", "Bearer ", "", http.StatusUnauthorized, ""},
		{Handler(cfg), "GET", "/dead-letters", "", "", http.StatusUnauthorized, ""},
		{Handler(cfg), "GET", "/dead-letters", "Bearer wrong", "", http.StatusUnauthorized, ""},
		{Handler(cfg), "POST", "/dead-letters/retry", "", `{"id": "a"}`, http.StatusUnauthorized, ""},
		{Handler(cfg), "GET", "/dead-letters", "Bearer secret", "", http.StatusOK, "list"},
		{Handler(cfg), "POST", "/dead-letters/retry", "Bearer secret", `{"id": "a"}`, http.StatusOK, "retry a"},
		{Handler(cfg), "POST", "/dead-letters/discard", "Bearer secret", `{"id": "b"}`, http.StatusOK, "discard b"},
		{Handler(cfg), "POST", "/dead-letters/discard", "Bearer secret", `{"id": "gone"}`, http.StatusBadGateway, "discard gone"},
		{Handler(cfg), "POST", "/dead-letters/retry", "Bearer secret", `{}`, http.StatusBadRequest, ""},
		{Handler(cfg), "POST", "/dead-letters/retry", "Bearer secret", `{"id": "` + strings.Repeat("x", maxLetterRequest) + `"}`, http.StatusBadRequest, ""},
		{Handler(cfg), "GET", "/dead-letters/retry", "Bearer secret", "", http.StatusMethodNotAllowed, ""},
	} {
		letters.asked = nil
		r := httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, strings.NewReader(tt.body))
		if tt.token != "" {
			r.Header.Set("Authorization", tt.token)
		}
		w := httptest.NewRecorder()
		tt.h.ServeHTTP(w, r)
		if asked := strings.Join(letters.asked, ", "); w.Code != tt.code || asked != tt.asked {
			t.Errorf("%s %s with %q: status %d and %q, want %d and %q", tt.method, tt.path, tt.token, w.Code, asked, tt.code, tt.asked)
		}
	}
}
