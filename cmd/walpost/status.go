package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/admin"
	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/internal/inspect"
	"github.com/walpost/walpost/internal/snapshot"
	"github.com/walpost/walpost/pkg/cdc"
)

func (c *cli) statusCommand() *cobra.Command {
	var instances []string
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the slot, what it and its bookmarks keep, and how far the instance is",
		Long: `Show the slot and its bookmarks and what they keep as the server sees it, and how far the running
instance is, which is asked at admin.listen. With postgres.shard all shards are
shown, and summed up; name the other instances with --instance. Of a slot that has a
standby the instance that streams is shown.

Takes a second, in which the rate of WAL is measured. Exits with 1 if a slot does
not exist, is lost, or belongs to something else.`,
		Args: noArgs,
	}
	config.AddFlags(cmd.Flags())
	cmd.Flags().StringSliceVar(&instances, "instance", nil, "address or URL of an instance's admin server; several, comma-separated (default admin.listen)")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until interrupted; with --output json, one document after the other")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		if len(instances) == 0 && cfg.Admin.Listen != "" {
			instances = []string{cfg.Admin.Listen}
		}
		if watch {
			return c.watchStatus(cmd.Context(), cfg, instances)
		}
		s, err := lookAtStatus(cmd.Context(), cfg, instances)
		if err != nil {
			return err
		}
		if err := c.print(s, s.print); err != nil {
			return err
		}
		return s.failure()
	}
	return cmd
}

// statusReport is what walpost status prints.
type statusReport struct {
	Server inspect.Server `json:"server"`
	Slots  []slotReport   `json:"slots"`
	Sum    statusSum      `json:"sum"`
}

// slotReport is a slot, and the instance that reads it.
type slotReport struct {
	inspect.Slot
	Instance *admin.Report `json:"instance"` // nil if it was not reached
	Problem  string        `json:"instance_problem,omitempty"`

	// Checkpoint is what the instance has saved; nil if there is none, or it could not
	// be read.
	Checkpoint   *cdc.Checkpoint `json:"checkpoint"`
	NoCheckpoint string          `json:"checkpoint_problem,omitempty"`

	Bookmarks []bookmark.Bookmark `json:"bookmarks"` // the oldest first
}

// statusSum is what the shards come to: the most where they do not add up. What only the
// instances know is nil unless that of each slot was reached, and is no standby.
type statusSum struct {
	Retained    int64          `json:"retained_bytes"` // the most: what one keeps, others keep too
	Lag         int64          `json:"lag_bytes"`      // the most
	LagSeconds  *float64       `json:"lag_seconds"`    // the most
	Unconfirmed *int           `json:"unconfirmed_events"`
	Processed   *float64       `json:"events_processed_total"`
	Left        *time.Duration `json:"left_ns"` // the least
	Reached     int            `json:"instances"`
}

func lookAtStatus(ctx context.Context, cfg config.Config, instances []string) (s statusReport, err error) {
	conn, err := connect(ctx, cfg.Postgres.ConnString())
	if err != nil {
		return s, err
	}
	defer closeConn(ctx, conn)
	if s.Server, err = inspect.LookAtServer(ctx, conn); err != nil {
		return s, err
	}
	found, asked := askAll(ctx, instances)
	for _, shard := range cfg.Shards() {
		r := slotReport{}
		if r.Slot, err = inspect.LookAtSlot(ctx, conn, s.Server, shard.Postgres.Slot); err != nil {
			return s, err
		}
		if r.Bookmarks, err = bookmark.List(ctx, conn, shard.Postgres.Slot); err != nil {
			return s, err
		}
		if r.Checkpoint, err = savedPosition(ctx, shard); err != nil {
			r.NoCheckpoint = cdc.OneLine(err)
		}
		r.Instance = found[r.Name]
		switch {
		case r.Instance != nil:
		case asked != nil:
			r.Problem = cdc.OneLine(asked)
		case len(instances) == 0:
			r.Problem = "admin.listen is empty"
		default:
			r.Problem = "none of those asked has this slot: name its address with --instance"
		}
		s.Slots = append(s.Slots, r)
	}
	s.add()
	return s, nil
}

// askAll returns the reports of the instances by their slots. A standby is told of only
// where none streams.
func askAll(ctx context.Context, instances []string) (found map[string]*admin.Report, problems error) {
	found = map[string]*admin.Report{}
	for _, address := range instances {
		report, err := inspect.Ask(ctx, address)
		if err != nil {
			problems = errors.Join(problems, err)
			continue
		}
		if found[report.Slot] == nil || report.State == cdc.Streaming {
			found[report.Slot] = &report
		}
	}
	return found, problems
}

// savedPosition returns the checkpoint of a slot, or nil if there is none.
func savedPosition(ctx context.Context, cfg config.Config) (*cdc.Checkpoint, error) {
	st, err := newStore(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { _ = st.Close() }() // nothing was written
	cp, err := st.Load(ctx)
	if err != nil || cp.IsZero() {
		return nil, err
	}
	return &cp, nil
}

func (s *statusReport) add() {
	lag, unconfirmed, processed, known := 0.0, 0, 0.0, true
	for _, r := range s.Slots {
		s.Sum.Retained, s.Sum.Lag = max(s.Sum.Retained, r.Retained), max(s.Sum.Lag, r.Lag)
		if r.Left != nil && (s.Sum.Left == nil || *r.Left < *s.Sum.Left) {
			s.Sum.Left = r.Left
		}
		i := r.Instance
		known = known && i != nil && !i.Standby
		if i != nil {
			s.Sum.Reached++
			lag, unconfirmed, processed = max(lag, i.LagSeconds), unconfirmed+i.Unconfirmed, processed+i.Processed
		}
	}
	if known {
		s.Sum.LagSeconds, s.Sum.Unconfirmed, s.Sum.Processed = &lag, &unconfirmed, &processed
	}
}

// failure returns an error if what is shown is a reason to act.
func (s *statusReport) failure() error {
	for _, r := range s.Slots {
		if r.Unusable != nil {
			return r.Unusable
		}
	}
	return nil
}

func (s *statusReport) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(s.Slots) == 1 {
		s.Slots[0].printLines(tw, s.Server)
	} else {
		s.printTable(tw)
	}
	return tw.Flush()
}

func (r *slotReport) printLines(w io.Writer, server inspect.Server) {
	line := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "%s\t"+format+"\n", append([]any{name}, args...)...) // Flush tells
	}
	line("slot", "%s, %s", r.Name, r.condition())
	if i := r.Instance; i != nil {
		line("instance", "%s", instanceState(i))
		line("lag", "%s, %s of WAL not confirmed", instanceLag(i), size(r.Lag))
		line("events", "%s published since the start, %s not acknowledged or behind one that is not", humanize.Comma(int64(i.Processed)), humanize.Comma(int64(i.Unconfirmed)))
		if n := i.Snapshot; n != nil {
			line("snapshot", "%d of %d chunks handed over, %s rows since the start", n.Chunks, n.Of, humanize.Comma(n.Rows))
		}
		if i.OpenDeadLetters > 0 {
			line("dead letters", "%d, and %d events of %d keys wait behind them: see walpost dlq list", i.OpenDeadLetters, i.ParkedEvents, i.ParkedKeys)
		}
	} else {
		line("instance", "not reached: %s", r.Problem)
	}
	if r.Instance == nil && r.Exists {
		line("lag", "%s of WAL not confirmed", size(r.Lag))
	}
	if r.Exists {
		line("confirmed", "%s", r.Confirmed)
	}
	line("checkpoint", "%s", r.checkpoint())
	if r.Exists {
		line("retained", "%s of WAL; %s/s are written", size(r.Retained), size(int64(server.Rate)))
	}
	for _, b := range r.Bookmarks {
		line("bookmark", "%s", bookmarkState(b))
	}
	line("limit", "%s", r.limit(server))
	line("server", "Postgres %s, WAL ends at %s", server.Version, server.End)
}

func (r *slotReport) condition() string {
	switch {
	case !r.Exists:
		return "does not exist"
	case r.Active:
		return fmt.Sprintf("%s, read by pid %d", r.Status, r.ActivePID)
	}
	return r.Status + ", not being streamed from"
}

func instanceState(i *admin.Report) string {
	ready := "ready"
	if !i.Ready {
		ready = "not ready"
	}
	return fmt.Sprintf("%s, %s: %s; up for %s, version %s", i.State, ready, i.Reason, time.Since(i.Started).Round(time.Second), i.Version)
}

// instanceLag is what an instance says of its lag: a standby knows nothing of it.
func instanceLag(i *admin.Report) string {
	if i.Standby {
		return "not known to a standby"
	}
	return seconds(i.LagSeconds)
}

func (r *slotReport) limit(server inspect.Server) string {
	var text string
	switch {
	case server.KeepSize < 0:
		text = "none but the disk: set max_slot_wal_keep_size, so that a slot cannot fill it"
	case r.Safe == nil:
		text = "max_slot_wal_keep_size " + size(server.KeepSize)
	default:
		text = fmt.Sprintf("max_slot_wal_keep_size %s, %s left", size(server.KeepSize), size(*r.Safe))
	}
	if server.DiskFree != nil && (r.Safe == nil || *server.DiskFree < *r.Safe) {
		text += fmt.Sprintf("; the disk has %s free", size(*server.DiskFree))
	}
	if r.Left != nil {
		text += fmt.Sprintf(": %s at this rate", r.Left.Round(time.Second))
	}
	return text
}

func (r *slotReport) checkpoint() string {
	switch {
	case r.Checkpoint != nil:
		return snapshot.Text(r.Checkpoint.LSN)
	case r.NoCheckpoint != "":
		return "not read: " + r.NoCheckpoint
	}
	return "none"
}

func (s *statusReport) printTable(w io.Writer) {
	_, _ = fmt.Fprintln(w, "SLOT\tSTATUS\tINSTANCE\tLAG\tNOT CONFIRMED\tRETAINED\tEVENTS\tNOT ACKNOWLEDGED\tCHECKPOINT") // Flush tells
	for _, r := range s.Slots {
		state, lag, behind, kept, events, open := "not reached", "", "", "", "", ""
		if r.Exists {
			behind, kept = size(r.Lag), size(r.Retained)
		}
		if i := r.Instance; i != nil {
			state, lag = string(i.State), instanceLag(i)
			events, open = humanize.Comma(int64(i.Processed)), humanize.Comma(int64(i.Unconfirmed))
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, cmp.Or(r.Status, "does not exist"), state, lag, behind, kept, events, open, r.checkpoint())
	}
	lag, events, open := "not known", "", ""
	if s.Sum.LagSeconds != nil {
		lag, events, open = seconds(*s.Sum.LagSeconds), humanize.Comma(int64(*s.Sum.Processed)), humanize.Comma(int64(*s.Sum.Unconfirmed))
	}
	_, _ = fmt.Fprintf(w, "all %d\t\t%d reached\t%s\t%s\t%s\t%s\t%s\t\n", len(s.Slots), s.Sum.Reached, lag, size(s.Sum.Lag), size(s.Sum.Retained), events, open)
	s.printNotReached(w)
	for _, r := range s.Slots {
		for _, b := range r.Bookmarks {
			_, _ = fmt.Fprintf(w, "bookmark of %s: %s\n", r.Name, bookmarkState(b))
		}
	}
}

// printNotReached says why, once for those that have the same reason.
func (s *statusReport) printNotReached(w io.Writer) {
	names := map[string][]string{}
	var problems []string
	for _, r := range s.Slots {
		if r.Instance != nil {
			continue
		}
		if names[r.Problem] == nil {
			problems = append(problems, r.Problem)
		}
		names[r.Problem] = append(names[r.Problem], r.Name)
	}
	for _, problem := range problems {
		_, _ = fmt.Fprintf(w, "instance of %s not reached: %s\n", strings.Join(names[problem], ", "), problem)
	}
}

// bookmarkState is what a bookmark is and keeps, for people.
func bookmarkState(b bookmark.Bookmark) string {
	text := fmt.Sprintf("%s, %s, keeps %s of WAL", b.Name, b.Status, size(b.Retained))
	if !b.Usable {
		text = fmt.Sprintf("%s, lost (%s): walpost bookmark drop %s", b.Name, b.Status, b.Name)
	}
	if b.Since != nil {
		text += ", set " + humanize.Time(*b.Since)
	}
	return text
}

// size prints bytes for people.
func size(n int64) string { return humanize.IBytes(uint64(max(0, n))) }

// seconds prints a duration for people.
func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond).String()
}
