package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
)

// Exit codes.
const (
	exitOK      = 0 // done, or asked to stop and stopped cleanly
	exitFailed  = 1
	exitInvalid = 2 // usage or configuration
)

// cli is what every command needs of its surroundings.
type cli struct {
	args, environ  []string
	stdout, stderr io.Writer
	output         string // text or json
}

// run executes one command and returns its exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	c := &cli{args: args, environ: environ, stdout: stdout, stderr: stderr}
	root := c.root()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	return c.report(cmd, err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "walpost",
		Short:         "Publish a transactional outbox from Postgres to Kafka",
		Args:          noArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if c.output != "text" && c.output != "json" {
				return &usageError{fmt.Errorf("--output %q: want text or json", c.output)}
			}
			return nil
		},
	}
	root.PersistentFlags().StringVarP(&c.output, "output", "o", "text", "what is printed: text or json")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		args := c.args
		if cmd.HasSubCommands() {
			args = nil // which have the flags
		}
		return &usageError{config.FlagError(cmd.Flags(), args, err)}
	})
	helpBySubject(root)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(c.runCommand(), c.initCommand(), c.demoCommand(), c.benchCommand(), c.configCommand(), c.statusCommand(), c.checkpointCommand(), c.bookmarkCommand(), c.replayCommand(), c.purgeCommand(), c.doctorCommand(), c.dlqCommand(), c.manCommand(), c.versionCommand())
	helpKnowsCommands(root)
	return root
}

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// report prints what cmd has ended with and its hints, and returns the exit code.
func (c *cli) report(cmd *cobra.Command, err error) int {
	help := "" // for who has misused it
	var usage *usageError
	if errors.As(err, &usage) {
		help = "see " + cmd.CommandPath() + " --help"
	}
	var invalid *config.Error
	if errors.As(err, &invalid) {
		for _, p := range invalid.Problems {
			c.complain(p.String(), cmp.Or(p.Hint, help))
		}
		return exitInvalid
	}
	var refused *cdc.RefusedError
	hint := ""
	if errors.As(err, &refused) {
		hint = refused.Hint
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		c.complain(cdc.OneLine(err), "")
		hint = cmp.Or(hint, "check postgres.dsn and the server itself")
	} else {
		for line := range strings.Lines(err.Error()) {
			c.complain(strings.TrimSuffix(line, "\n"), "")
		}
	}
	var poison *cdc.PoisonError
	if hint == "" && errors.As(err, &poison) {
		hint = poisonHints[poison.Reason] + "; or set delivery.poison to dead-letter. Nothing behind this row was published"
	}
	c.hint(cmp.Or(hint, help))
	if help != "" {
		return exitInvalid
	}
	return exitFailed
}

// poisonHints say what would let a poison row through.
var poisonHints = map[cdc.PoisonReason]string{
	cdc.PoisonKey:      "set outbox.key to a column that is never NULL",
	cdc.PoisonTopic:    "correct outbox.route, outbox.route_regex or outbox.topic",
	cdc.PoisonRow:      "correct the outbox.* columns, take the placement out, or register a schema that the payload fits",
	cdc.PoisonOversize: "raise the topic's max.message.bytes, and kafka.max_message_bytes if it is set",
	cdc.PoisonRefused:  "change what makes the broker refuse it",
}

func (c *cli) complain(text, hint string) {
	_, _ = fmt.Fprintf(c.stderr, "walpost: %s\n", text)
	c.hint(hint)
}

func (c *cli) hint(hint string) {
	if hint != "" {
		_, _ = fmt.Fprintf(c.stderr, "walpost: hint: %s\n", hint)
	}
}

// print writes v as JSON, or what text writes.
func (c *cli) print(v any, text func(w io.Writer) error) error {
	if c.output == "json" {
		enc := json.NewEncoder(c.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	return text(c.stdout)
}
