package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/demo"
)

func (c *cli) demoCommand() *cobra.Command {
	var events int
	var serve bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run the main job with nothing installed",
		Long: `Run the main job with nothing installed: a Postgres of its own, an in-process
Kafka, an order service that writes, walpost between the two, and a consumer
that reads. Ends with 0 only if the figures add up.`,
		Args: noArgs,
	}
	cmd.Flags().IntVar(&events, "events", 10_000, "how many events are written")
	cmd.Flags().BoolVar(&serve, "serve", false, "keep everything running afterwards, with the status page")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if events < 1 {
			return &usageError{errors.New("--events: want at least 1")}
		}
		out := c.stdout
		if c.output == "json" {
			out = c.stderr
		}
		listen := ""
		if serve {
			listen = demoListen(cmd.Context())
		}
		log := newLogger(config.Log{Level: slog.LevelWarn, Format: config.LogText}, c.stderr)
		sum, err := demo.Run(cmd.Context(), demo.Config{
			Events: events, Serve: serve, Page: "http://" + listen + "/", Out: out, Logger: log,
			Init: c.demoInit,
			Stream: func(ctx context.Context, dsn string, brokers []string) error {
				return streamDemo(ctx, dsn, brokers, listen, log)
			},
		})
		if cmd.Context().Err() != nil && (!serve || !sum.OK()) {
			return errInterrupted // whatever that broke
		}
		if err != nil {
			return err
		}
		if !serve || c.output == "json" {
			if err := c.print(sum, func(w io.Writer) error { sum.Print(w); return nil }); err != nil {
				return err
			}
		}
		if !sum.OK() {
			return errors.New("demo: the figures do not add up")
		}
		return nil
	}
	return cmd
}

var errInterrupted = errors.New("demo: interrupted before every event had arrived")

// demoListen is where the status page is: at the usual address, unless a walpost of the user's has
// it.
func demoListen(ctx context.Context) string {
	usual := config.Defaults("admin.listen")["admin.listen"]
	var lc net.ListenConfig
	for _, address := range []string{usual, "127.0.0.1:0"} {
		if l, err := lc.Listen(ctx, "tcp", address); err == nil {
			_ = l.Close() // it was there to be found
			return l.Addr().String()
		}
	}
	return usual
}

// demoConfig is what a user would set.
func demoConfig(dsn string, brokers []string, listen string) (config.Config, error) {
	environ := []string{
		"WALPOST_POSTGRES_DSN=" + dsn,
		"WALPOST_KAFKA_CREATE_TOPICS=true",
		"WALPOST_KAFKA_PARTITIONS=3",
		"WALPOST_ADMIN_LISTEN=" + listen,
	}
	if len(brokers) > 0 {
		environ = append(environ, "WALPOST_KAFKA_BROKERS="+strings.Join(brokers, ","))
	}
	return config.Load(nil, environ)
}

func (c *cli) demoInit(ctx context.Context, dsn string) error {
	cfg, err := demoConfig(dsn, nil, "")
	if err != nil {
		return err
	}
	steps, err := initSteps(cfg, initOptions{})
	if err != nil {
		return err
	}
	_, err = c.applyInit(ctx, cfg, steps)
	return err
}

func streamDemo(ctx context.Context, dsn string, brokers []string, listen string, log *slog.Logger) error {
	cfg, err := demoConfig(dsn, brokers, listen)
	if err != nil {
		return err
	}
	s, err := newService(cfg, log)
	if err != nil {
		return err
	}
	return s.run(ctx)
}
