package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/deadletter"
	"github.com/walpost/walpost/pkg/sink/kafka"
)

// requestOptions are the flags of retry and discard.
type requestOptions struct {
	key, topic, to  string
	all, withParked bool
	wait            time.Duration
}

var requestHelp = map[cdc.Action]struct{ short, long string }{
	cdc.Retry: {"Publish a dead letter and what is parked behind it, in order", `Publish a dead letter and then, in order, what is parked behind it. The instance
that streams does it, and this command waits for its answer. What fails again stays
dead, with the new reason, and so does what is behind it: exit 1.`},
	cdc.Discard: {"Drop a dead letter and publish what is parked behind it", `Drop a dead letter and then publish, in order, what is parked behind it, or with
--with-parked drop that too. The instance that streams does it, and this command
waits for its answer.`},
}

func (c *cli) dlqRequest(action cdc.Action) *cobra.Command {
	var opts requestOptions
	cmd := &cobra.Command{
		Use:   string(action) + " [ID | --key K | --all]",
		Short: requestHelp[action].short, Long: requestHelp[action].long,
		Args: func(*cobra.Command, []string) error { return nil },
	}
	config.AddFlags(cmd.Flags())
	cmd.Flags().StringVar(&opts.key, "key", "", "the dead letters of this key")
	cmd.Flags().BoolVar(&opts.all, "all", false, "all dead letters there are now")
	cmd.Flags().StringVar(&opts.topic, "topic", "", "of these, only those that were to go to this topic")
	cmd.Flags().DurationVar(&opts.wait, "wait", 30*time.Second, "how long to wait for the answer")
	if action == cdc.Retry {
		cmd.Flags().StringVar(&opts.to, "to", "", "publish to this topic instead")
	} else {
		cmd.Flags().BoolVar(&opts.withParked, "with-parked", false, "drop what is parked too")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := newRequest(action, opts, args, cmd.Flags().Changed("key"))
		if err != nil {
			return &usageError{err}
		}
		cfg, err := c.load(cmd.Flags())
		if err != nil {
			return err
		}
		answer, err := ask(cmd.Context(), cfg, req, opts.wait)
		if err != nil {
			return err
		}
		return errors.Join(c.print(answer, func(w io.Writer) error { return printAnswer(w, answer) }), stillDead(answer))
	}
	return cmd
}

// newRequest makes a request of a command line, on which exactly one of an id, a
// key and --all must be.
func newRequest(action cdc.Action, opts requestOptions, args []string, keyed bool) (*cdc.Request, error) {
	req := &cdc.Request{ID: rand.Text(), Action: action, All: opts.all, Topic: opts.topic, To: opts.to, WithParked: opts.withParked}
	given := len(args)
	if len(args) > 0 {
		req.Letter = args[0]
	}
	if keyed {
		req.Key = []byte(opts.key)
		given++
	}
	if opts.all {
		given++
	}
	switch {
	case given != 1 || len(args) == 1 && args[0] == "":
		return nil, fmt.Errorf("dlq %s: want one of an id, --key and --all", action)
	case opts.wait <= 0:
		return nil, fmt.Errorf("--wait %s: want more than 0", opts.wait)
	}
	return req, nil
}

// ask writes a request and waits for the answer. A request that concerns nothing is
// not written.
func ask(ctx context.Context, cfg config.Config, req *cdc.Request, limit time.Duration) (*cdc.Answer, error) {
	lots, err := readLots(ctx, cfg, nil)
	if err != nil {
		return nil, err
	}
	wanted := 0
	for _, lot := range lots.List() {
		if req.Wants(lot) {
			wanted++
		}
	}
	switch {
	case wanted == 0 && req.All && req.Topic == "":
		return &cdc.Answer{Request: req.ID}, nil
	case wanted == 0:
		return nil, errNoLetter("no dead letter is meant by that")
	}
	actx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := exchange(actx, cfg, req)
	if err != nil && ctx.Err() == nil && actx.Err() != nil {
		return nil, cdc.Refuse("walpost run must stream with delivery.poison set to dead-letter, and this slot and topic. The request stays: it is carried out once an instance can",
			"no instance answered within %s", limit)
	}
	return answer, err
}

// exchange writes the request and reads on until it is answered.
func exchange(ctx context.Context, cfg config.Config, req *cdc.Request) (*cdc.Answer, error) {
	quiet := slog.New(slog.DiscardHandler)
	if err := writeRequest(ctx, cfg, req, quiet); err != nil {
		return nil, err
	}
	r, err := newLetterReader(cfg, quiet)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for at := int64(0); ; {
		recs, err := r.Fetch(ctx, at)
		if err != nil {
			return nil, err
		}
		for _, rec := range recs {
			at = rec.Offset + 1
			l, err := deadletter.Decode(rec.Record)
			if err == nil && l.Kind == cdc.LetterAnswer && l.Answer.Request == req.ID {
				return l.Answer, nil
			}
		}
	}
}

func newSink(cfg config.Config, log *slog.Logger) (*kafka.Sink, error) {
	kc, err := kafkaConfig(cfg, log, nil)
	if err != nil {
		return nil, err
	}
	return kafka.New(kc)
}

func writeRequest(ctx context.Context, cfg config.Config, req *cdc.Request, log *slog.Logger) error {
	sink, err := newSink(cfg, log)
	if err != nil {
		return err
	}
	defer sink.Close()
	r := cdc.NewRecord()
	deadletter.Encode(cfg.DeadLetters(), &cdc.Letter{Kind: cdc.LetterRequest, Slot: cfg.Postgres.Slot, Time: time.Now(), Request: req}, r)
	written := make(chan error, 1)
	if err := sink.Produce(ctx, r, func(_ *cdc.Record, err error) { written <- err }); err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	select {
	case err := <-written:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func printAnswer(w io.Writer, a *cdc.Answer) error {
	_, err := fmt.Fprintf(w, "dead letters %d, settled %d, still dead %d; events published %d, discarded %d\n", a.Lots, a.Freed, a.Failed, a.Published, a.Discarded)
	for i := range a.StillDead {
		lot := &a.StillDead[i]
		_, err = fmt.Fprintf(w, "still dead: %s, reason %s: %s\n", lot.Dead.Name(), lot.Dead.Reason, lot.Dead.Error)
	}
	return err
}

func stillDead(a *cdc.Answer) error {
	if a.Failed == 0 {
		return nil
	}
	return cdc.Refuse("mend what it says and retry, or discard it", "%d of %d dead letters failed again", a.Failed, a.Lots)
}
