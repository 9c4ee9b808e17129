package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manCommand is for packages.
func (c *cli) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "Write a man page for each command",
		Hidden: true,
		Args:   exactlyOne("folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return doc.GenManTree(cmd.Root(), &doc.GenManHeader{Title: "WALPOST", Section: "1", Source: "walpost", Manual: "walpost"}, args[0])
		},
	}
}
