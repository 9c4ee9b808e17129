package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
)

// noArgs refuses an argument, with the commands or flags that there are.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	path := cmd.CommandPath()
	if !cmd.HasAvailableSubCommands() {
		hint := "see " + path + " --help"
		if own := ownFlags(cmd); len(own) > 0 {
			hint = "it has flags only, as " + strings.Join(own, ", ") + ": " + hint
		}
		return &usageError{cdc.Refuse(hint, "%s takes no arguments, and got %q", path, args[0])}
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	cmd.SuggestionsMinimumDistance = 2
	text := fmt.Sprintf("unknown command %q for %q", args[0], path)
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += ": did you mean " + strings.Join(near, ", ") + "?"
	}
	return &usageError{cdc.Refuse(path+" has "+strings.Join(names, ", "), "%s", text)}
}

// ownFlags are those of the command that are no settings.
func ownFlags(cmd *cobra.Command) (names []string) {
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" && !config.IsSetting(f) {
			names = append(names, "--"+f.Name)
		}
	})
	return names
}

// exclude refuses a flag of cmd beside any of the others.
func exclude(cmd *cobra.Command, flag string, others ...string) {
	for _, other := range others {
		cmd.MarkFlagsMutuallyExclusive(flag, other) // what is completed goes by that
	}
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		var given []string
		for _, other := range others {
			if cmd.Flags().Changed(other) {
				given = append(given, "--"+other)
			}
		}
		if len(given) == 0 || !cmd.Flags().Changed(flag) {
			return nil
		}
		rest := "the other"
		if len(given) > 1 {
			rest += "s"
		}
		return &usageError{cdc.Refuse(fmt.Sprintf("leave out --%s, or %s: see %s --help", flag, rest, cmd.CommandPath()), "--%s excludes %s", flag, strings.Join(given, ", "))}
	}
}
