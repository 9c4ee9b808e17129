package main

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/pflag"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
)

// load reads the configuration, and has those judge what only they understand.
func (c *cli) load(flags *pflag.FlagSet) (config.Config, error) {
	return config.Load(flags, c.environ, config.Judge{Keys: "postgres.", Check: judgeDSN}, config.Judge{Keys: "outbox.", Check: judgeRouter})
}

func judgeRouter(cfg config.Config) []config.Problem {
	if _, err := newRouter(cfg.Outbox); err != nil {
		return problems(err)
	}
	return nil
}

// judgeDSN asks the database driver, which also looks at libpq's variables and at the
// files that they name. Its errors show the connection string before they come to the
// point.
func judgeDSN(cfg config.Config) []config.Problem {
	_, err := pgx.ParseConfig(cfg.Postgres.ConnString())
	if err == nil {
		return nil
	}
	text := err.Error()
	text = text[strings.LastIndex(text, "`: ")+1:]
	return []config.Problem{{
		Key: "postgres.dsn", Text: "cannot be used: " + strings.TrimPrefix(text, ": "),
		Hint: "check it, and libpq's PG* variables, which fill in what it does not say",
	}}
}

// problems takes joined errors apart, each with its hint.
func problems(err error) []config.Problem {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var all []config.Problem
		for _, e := range joined.Unwrap() {
			all = append(all, problems(e)...)
		}
		return all
	}
	p := config.Problem{Text: err.Error()}
	var refused *cdc.RefusedError
	if errors.As(err, &refused) {
		p.Hint = refused.Hint
	}
	return []config.Problem{p}
}
