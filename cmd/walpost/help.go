package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/walpost/walpost/internal/config"
)

// helpWidth is where the help's lines end.
const helpWidth = 120

// helpBySubject lets the help of root and of its commands tell their own flags first, and the
// settings, which most commands have too, below them.
func helpBySubject(root *cobra.Command) {
	cobra.AddTemplateFunc("bySubject", flagsBySubject)
	const all = ".LocalFlags.FlagUsages | trimTrailingWhitespaces"
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), all, ".LocalFlags | bySubject", 1))
}

// helpKnowsCommands has walpost help refuse what is no command, as walpost itself does. It must be
// called when all commands are added.
func helpKnowsCommands(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() != "help" {
			continue
		}
		cmd.Args = func(_ *cobra.Command, args []string) error {
			found, rest, err := root.Find(args)
			if err != nil {
				return &usageError{err}
			}
			if !found.HasAvailableSubCommands() {
				return nil // what it takes is not asked for
			}
			return noArgs(found, rest)
		}
	}
}

func flagsBySubject(all *pflag.FlagSet) string {
	own, settings := pflag.NewFlagSet("", pflag.ContinueOnError), pflag.NewFlagSet("", pflag.ContinueOnError)
	all.VisitAll(func(f *pflag.Flag) {
		if config.IsSetting(f) {
			settings.AddFlag(f)
		} else {
			own.AddFlag(f)
		}
	})
	text := strings.TrimRight(own.FlagUsagesWrapped(helpWidth), "\n")
	if settings.HasAvailableFlags() {
		text += "\n\nSettings, which the file and the environment may give too (see walpost config --example):\n" +
			strings.TrimRight(settings.FlagUsagesWrapped(helpWidth), "\n")
	}
	return text
}
