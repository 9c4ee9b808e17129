package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/walpost/walpost/pkg/cdc"
)

// Letters are the dead letters, as the status page wants them. Both may be called from any
// goroutine, and wait for Kafka until ctx is done.
type Letters interface {
	// List returns what is shown of each, as JSON has it.
	List(ctx context.Context) (any, error)

	// Settle retries or discards one, and returns what came of it, as JSON has it.
	Settle(ctx context.Context, action cdc.Action, id string) (any, error)
}

// maxLetterRequest bounds the body of a request.
const maxLetterRequest = 4 << 10

func serveLetters(mux *http.ServeMux, cfg Config) {
	mux.HandleFunc("GET /dead-letters", cfg.guarded(func(r *http.Request) (any, error) { return cfg.Letters.List(r.Context()) }))
	for _, action := range []cdc.Action{cdc.Retry, cdc.Discard} {
		mux.HandleFunc("POST /dead-letters/"+string(action), cfg.guarded(func(r *http.Request) (any, error) {
			var body struct{ ID string }
			if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxLetterRequest)).Decode(&body); err != nil || body.ID == "" {
				return nil, errBadRequest
			}
			cfg.Logger.Info("dead letter is to be settled from the status page", "action", action, "id", body.ID, "from", r.RemoteAddr)
			return cfg.Letters.Settle(r.Context(), action, body.ID)
		}))
	}
}

var errBadRequest = errors.New(`want {"id": "..."}`)

// guarded answers only who sends the token, in a header that no other site's page can set.
func (cfg Config) guarded(answer func(*http.Request) (any, error)) http.HandlerFunc {
	want := sha256.Sum256([]byte(cfg.Token))
	return func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(token))
		if cfg.Token == "" || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			cfg.Logger.Warn("a request without the token was turned away", "path", r.URL.Path, "from", r.RemoteAddr)
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "this needs the token of admin.token_file", http.StatusUnauthorized)
			return
		}
		result, err := answer(r)
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case errors.Is(err, errBadRequest):
			http.Error(w, err.Error(), http.StatusBadRequest)
		case err != nil:
			http.Error(w, cdc.OneLine(err), http.StatusBadGateway)
		default:
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(result) // to a client that may be gone
		}
	}
}
