package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
)

func (c *cli) configCommand() *cobra.Command {
	var (
		example  bool
		debezium string
	)
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the effective configuration, with secrets masked",
		Args:  noArgs,
	}
	config.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&example, "example", false, "print an example file with every key, its default and what it means")
	cmd.Flags().StringVar(&debezium, "from-debezium", "", "print a walpost.yaml made of the configuration `FILE` of a Debezium connector, JSON or properties; - reads it from stdin")
	exclude(cmd, "example", "from-debezium")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if example {
			text, err := config.Example()
			if err != nil {
				return err
			}
			_, err = c.stdout.Write(text)
			return err
		}
		if debezium != "" {
			return c.fromDebezium(cmd, debezium)
		}
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		eff := cfg.Effective()
		return c.print(eff, func(w io.Writer) error {
			text, err := eff.YAML()
			if err != nil {
				return err
			}
			_, err = w.Write(text)
			return err
		})
	}
	return cmd
}

// fromDebezium prints what the file means, and what is to be looked at to stderr.
func (c *cli) fromDebezium(cmd *cobra.Command, file string) error {
	data, err := os.ReadFile(file)
	if file == "-" {
		data, err = io.ReadAll(cmd.InOrStdin())
	}
	if err != nil {
		return &usageError{err}
	}
	t, err := config.FromDebezium(data)
	if err != nil {
		return &usageError{fmt.Errorf("%s: %w", file, err)}
	}
	for _, w := range t.Warnings {
		_, _ = fmt.Fprintln(c.stderr, "walpost: warning: "+w)
	}
	_, err = c.stdout.Write(t.YAML)
	return err
}
