package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/deadletter"
	"github.com/walpost/walpost/pkg/sink/kafka"
)

func (c *cli) dlqCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "Look at dead letters, retry or discard them",
		Long: `Look at dead letters, retry or discard them.

With delivery.poison set to dead-letter, a row that can never be published goes to
the dead-letter topic, and later events of its key and topic are parked behind it.
Retry and discard are requests: the instance that streams carries them out.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.dlqList(), c.dlqShow(), c.dlqRequest(cdc.Retry), c.dlqRequest(cdc.Discard))
	return cmd
}

// readTimeout bounds how long a dlq command waits for Kafka.
const readTimeout = 30 * time.Second

func (c *cli) dlqList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Print the dead letters, and how many events are parked behind each",
		Args:  noArgs,
	}
	config.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		lots, err := readLots(cmd.Context(), cfg, nil)
		if err != nil {
			return err
		}
		list := []shownLot{}
		for _, lot := range lots.List() {
			list = append(list, showLot(lot))
		}
		return c.print(list, func(w io.Writer) error { return printLots(w, list) })
	}
	return cmd
}

// shownLot is a dead letter as it is listed.
type shownLot struct {
	ID     string           `json:"id"`
	Key    *string          `json:"key"` // null: the row has none
	Topic  string           `json:"topic"`
	Reason cdc.PoisonReason `json:"reason"`
	Time   time.Time        `json:"time"`
	Parked int              `json:"parked"`
	Table  string           `json:"table"`
	LSN    cdc.LSN          `json:"lsn"`
	Row    int64            `json:"ordinal"`
	Error  string           `json:"error"`
}

func showLot(l *cdc.Lot) shownLot {
	s := shownLot{
		ID: l.Dead.Name(), Topic: l.Topic, Reason: l.Dead.Reason, Time: l.Dead.Time, Parked: l.Parked,
		Table: l.Dead.Table, LSN: l.Dead.LSN, Row: l.Dead.Ordinal, Error: l.Dead.Error,
	}
	if l.Key != nil {
		key := readable(l.Key)
		s.Key = &key
	}
	return s
}

// readable is text as it is, and else a quoted form of the bytes.
func readable(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return fmt.Sprintf("%q", b)
}

func printLots(w io.Writer, list []shownLot) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no dead letters")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "ID\tKEY\tTOPIC\tREASON\tTIME\tPARKED")
	for _, l := range list {
		key, topic := "-", l.Topic
		if l.Key != nil {
			key = fmt.Sprintf("%q", *l.Key)
		}
		if topic == "" {
			topic = "-"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\n", l.ID, key, topic, l.Reason, l.Time.UTC().Format("2006-01-02 15:04:05Z"), l.Parked)
	}
	return t.Flush()
}

func (c *cli) dlqShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Print everything about a dead letter, with its payload",
		Long: `Print everything about a dead letter, with its payload. ID is the row's id, or the
place that list prints for a row without one.`,
		Args: exactlyOne("ID"),
	}
	config.AddFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		events := map[int64]*cdc.Record{}
		lots, err := readLots(cmd.Context(), cfg, func(l *cdc.Letter) {
			if l.Event != nil && string(l.Event.ID) == args[0] || l.Event != nil && l.Event.ID == nil {
				events[l.Offset] = l.Event
			}
		})
		if err != nil {
			return err
		}
		for _, lot := range lots.List() {
			if lot.Is(args[0]) && events[lot.Dead.Offset] != nil {
				s := showEvent(lot, events[lot.Dead.Offset])
				return c.print(s, func(w io.Writer) error { return printEvent(w, s) })
			}
		}
		return errNoLetter("no dead letter has the id %q", args[0])
	}
	return cmd
}

func errNoLetter(format string, args ...any) error {
	return cdc.Refuse("walpost dlq list prints those that there are", format, args...)
}

// shownEvent is a dead letter with its event.
type shownEvent struct {
	shownLot
	Partition *int32        `json:"partition"` // null: the key decides
	Timestamp time.Time     `json:"timestamp"`
	Committed time.Time     `json:"committed"`
	Headers   []shownHeader `json:"headers"`
	KeyBytes  []byte        `json:"key_base64"`
	Payload   []byte        `json:"payload_base64"` // null: the value is null
}

type shownHeader struct {
	Name  string  `json:"name"`
	Value *string `json:"value"`
}

func showEvent(lot *cdc.Lot, r *cdc.Record) shownEvent {
	s := shownEvent{
		shownLot: showLot(lot), Timestamp: r.Timestamp, Committed: r.CommitTime, Headers: []shownHeader{},
		KeyBytes: r.Key, Payload: r.Value,
	}
	if r.Partition >= 0 {
		s.Partition = &r.Partition
	}
	for _, h := range r.Headers {
		shown := shownHeader{Name: h.Key}
		if h.Value != nil {
			text := readable(h.Value)
			shown.Value = &text
		}
		s.Headers = append(s.Headers, shown)
	}
	return s
}

// printEvent writes what is known, and the payload's bytes after an empty line.
func printEvent(w io.Writer, s shownEvent) error {
	key := "none"
	if s.Key != nil {
		key = fmt.Sprintf("%q", *s.Key)
	}
	_, _ = fmt.Fprintf(w, "id         %s\nkey        %s\ntopic      %s\nreason     %s\nerror      %s\ndead since %s\nparked     %d\ntable      %s\nlsn        %s\nordinal    %d\ncommitted  %s\ntimestamp  %s\n",
		s.ID, key, s.Topic, s.Reason, s.Error, s.Time.UTC().Format(time.RFC3339Nano), s.Parked, s.Table, s.LSN, s.Row,
		s.Committed.UTC().Format(time.RFC3339Nano), s.Timestamp.UTC().Format(time.RFC3339Nano))
	for _, h := range s.Headers {
		value := "null"
		if h.Value != nil {
			value = fmt.Sprintf("%q", *h.Value)
		}
		_, _ = fmt.Fprintf(w, "header     %s: %s\n", h.Name, value)
	}
	if s.Payload == nil {
		_, err := fmt.Fprintf(w, "payload    null\n")
		return err
	}
	_, _ = fmt.Fprintf(w, "payload    %d bytes\n\n", len(s.Payload))
	_, err := w.Write(append(s.Payload, '\n'))
	return err
}

// readLots is readLetters for somebody who waits at a terminal.
func readLots(ctx context.Context, cfg config.Config, look func(*cdc.Letter)) (*cdc.Lots, error) {
	return readLetters(ctx, cfg, readTimeout, look)
}

// readLetters reads the dead-letter topic up to where it ends now, and has each letter
// of the slot looked at.
func readLetters(ctx context.Context, cfg config.Config, limit time.Duration, look func(*cdc.Letter)) (*cdc.Lots, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer from Kafka within %s", limit))
	defer cancel()
	r, err := newLetterReader(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	lots := cdc.NewLots(cfg.Postgres.Slot)
	err = r.ReadAll(ctx, func(rec cdc.Logged) error {
		l, err := deadletter.Decode(rec.Record)
		if err != nil {
			return nil //nolint:nilerr // none of ours
		}
		l.Offset = rec.Offset
		lots.Apply(l)
		if look != nil && l.Slot == cfg.Postgres.Slot {
			look(l)
		}
		return nil
	})
	switch {
	case errors.Is(err, kafka.ErrNoTopic):
		return nil, &cdc.RefusedError{
			Err:  fmt.Errorf("dead-letter topic %q does not exist: %w", cfg.DeadLetters(), err),
			Hint: "it is made by walpost run with delivery.poison set to dead-letter; or set delivery.dead_letter_topic to the one in use",
		}
	case ctx.Err() != nil:
		return nil, fmt.Errorf("read dead-letter topic %q: %w", cfg.DeadLetters(), context.Cause(ctx))
	}
	return lots, err
}

func exactlyOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 && args[0] != "" {
			return nil
		}
		return &usageError{fmt.Errorf("%s: want one %s, got %d arguments", cmd.CommandPath(), name, len(args))}
	}
}
