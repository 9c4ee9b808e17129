package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
)

func (c *cli) configCommand() *cobra.Command {
	var example bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the effective configuration, with secrets masked",
		Args:  noArgs,
	}
	config.AddFlags(cmd.Flags())
	cmd.Flags().BoolVar(&example, "example", false, "print an example file with every key, its default and what it means")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if example {
			text, err := config.Example()
			if err != nil {
				return err
			}
			_, err = c.stdout.Write(text)
			return err
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
