package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/snapshot"
	"github.com/walpost/walpost/pkg/cdc"
)

func (c *cli) checkpointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Look at the saved position, or set it",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	show := &cobra.Command{
		Use:   "show",
		Short: "Print the saved position of the slot",
		Long: `Print the saved position of the slot: everything committed before it is in
Kafka. The LSN alone is on the first line, for scripts.`,
		Args: noArgs,
	}
	config.AddFlags(show.Flags())
	show.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		st, err := newStore(cfg)
		if err != nil {
			return err
		}
		defer func() { _ = st.Close() }() // nothing was written
		cp, err := st.Load(cmd.Context())
		if err != nil {
			return err
		}
		if cp.IsZero() {
			return cdc.Refuse("it is saved when walpost run has started once", "no checkpoint for slot %q", cfg.Postgres.Slot)
		}
		return c.print(shownCheckpoint{cfg.Postgres.Slot, string(cfg.Checkpoint.Store), cp}, func(w io.Writer) error {
			return printCheckpoint(w, cfg, cp)
		})
	}
	cmd.AddCommand(show, c.checkpointSet())
	return cmd
}

type shownCheckpoint struct {
	Slot  string `json:"slot"`
	Store string `json:"store"`
	cdc.Checkpoint
}

func printCheckpoint(w io.Writer, cfg config.Config, cp cdc.Checkpoint) error {
	saved := "with the slot"
	if !cp.SavedAt.IsZero() {
		saved = cp.SavedAt.UTC().Format("2006-01-02 15:04:05Z")
	}
	_, err := fmt.Fprintf(w, "%s\nslot        %s\nstore       %s\nsystem id   %d\ntimeline    %d\nepoch       %d\nsaved       %s\n",
		snapshot.Text(cp.LSN), cfg.Postgres.Slot, cfg.Checkpoint.Store, cp.SystemID, cp.Timeline, cp.Epoch, saved)
	return err
}
