// Package admin is what an operator and their tools ask: liveness, readiness,
// metrics and a status page, over HTTP.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/pkg/cdc"
)

// Config holds a server's settings.
type Config struct {
	// Listen is the TCP address, as in 127.0.0.1:9187.
	Listen string

	// Ready returns a word for what the instance is doing, or why it is not
	// ready. It is called for each request, from any goroutine.
	Ready func(context.Context) (string, error)

	// Report returns what /status shows, and an error if it is not whole. It is called
	// for each request, from any goroutine.
	Report func(context.Context) (Report, error)

	// Settings is what /config shows as JSON. It must hold no secret.
	Settings any

	// Letters are the dead letters; nil if there are to be none here. They are shown, and
	// settled, only to who sends Token, which must not be empty then.
	Letters Letters
	Token   string

	// Gatherer is what /metrics shows.
	Gatherer prometheus.Gatherer

	// Logger takes what the HTTP server itself complains about.
	Logger *slog.Logger
}

const (
	headerTimeout   = 5 * time.Second
	readyTimeout    = 5 * time.Second
	shutdownTimeout = time.Second
)

// Serve listens until ctx is done, and then returns nil. It fails at once if
// the address cannot be had. listening, if not nil, is called with the address.
func Serve(ctx context.Context, cfg Config, listening func(net.Addr)) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", cfg.Listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return cdc.Refuse("give each instance on a host, as a standby or another shard, an admin.listen of its own, as in --admin.listen 127.0.0.1:9188",
			"listen on admin.listen %q: %w", cfg.Listen, err)
	case err != nil:
		return fmt.Errorf("listen on admin.listen %q: %w", cfg.Listen, err)
	}
	if listening != nil {
		listening(l.Addr())
	}
	srv := &http.Server{
		Handler:           Handler(cfg),
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelWarn),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", cfg.Listen, err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := srv.Shutdown(sctx); err != nil {
			return srv.Close() // a client that reads on and on is cut off
		}
		return nil
	})
	return g.Wait()
}

// Handler returns the routes.
func Handler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		word, err := cfg.Ready(ctx)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, word)
	})
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /config", serveSettings(cfg))
	if cfg.Letters != nil {
		serveLetters(mux, cfg)
	}
	mux.HandleFunc("GET /status", serveReport(cfg))
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	return mux
}
