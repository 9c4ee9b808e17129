package main

import (
	"errors"

	"github.com/spf13/pflag"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
)

// load reads the configuration, and has the router judge what only it
// understands.
func (c *cli) load(flags *pflag.FlagSet) (config.Config, error) {
	cfg, err := config.Load(flags, c.environ)
	if err != nil {
		return config.Config{}, err
	}
	if _, err := newRouter(cfg.Outbox); err != nil {
		return config.Config{}, &config.Error{Problems: problems(err)}
	}
	return cfg, nil
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
