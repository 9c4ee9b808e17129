package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/term"
)

// shown is how many records the demo prints.
const shown = 5

// sightings is what the consumer saw.
type sightings struct {
	ids        map[string]bool
	versions   map[string]int64 // last of each order
	duplicated int
	outOfOrder int
	changed    int
	latencies  []time.Duration
}

// consume reads until every event has arrived, or until nothing has for a while.
func consume(ctx context.Context, cfg Config, brokers []string) (*sightings, error) {
	s := &sightings{ids: map[string]bool{}, versions: map[string]int64{}}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(100*time.Millisecond), kgo.MetadataMaxAge(time.Second))
	if err != nil {
		return s, err
	}
	defer cl.Close()
	bar := newBar(cfg.Out, cfg.Events)
	for len(s.ids) < cfg.Events {
		fctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("consumer: nothing arrived for %s", patience))
		fetches := cl.PollFetches(fctx)
		err := context.Cause(fctx)
		cancel()
		if err != nil {
			return s, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if len(s.ids) < shown {
				printRecord(cfg.Out, r)
			}
			s.see(r)
		})
		_ = bar.Set(len(s.ids))
	}
	_ = bar.Finish()
	return s, nil
}

// patience is how long the consumer waits for a record.
const patience = 30 * time.Second

// newBar returns a progress bar, which shows itself only on a terminal.
func newBar(w io.Writer, n int) *progressbar.ProgressBar {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return progressbar.DefaultSilent(int64(n))
	}
	return progressbar.NewOptions(n, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("events"),
		progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
}

func printRecord(w io.Writer, r *kgo.Record) {
	_, _ = fmt.Fprintf(w, "%s  partition %d  key %s  id %s\n    %s\n", r.Topic, r.Partition, r.Key, header(r, "id"), r.Value)
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

func (s *sightings) see(r *kgo.Record) {
	id := header(r, "id")
	if s.ids[id] {
		s.duplicated++
		return
	}
	s.ids[id] = true
	var e orderChanged
	if err := json.Unmarshal(r.Value, &e); err != nil || e.Order != string(r.Key) || e.Cents != e.Version*priceCents {
		s.changed++
		return
	}
	if e.Version != s.versions[e.Order]+1 {
		s.outOfOrder++
	}
	s.versions[e.Order] = e.Version
	s.latencies = append(s.latencies, time.Since(e.At))
}

func (s *sightings) summary(written int) Summary {
	slices.SortFunc(s.latencies, cmp.Compare[time.Duration])
	sum := Summary{
		Written: written, Received: len(s.ids), Lost: written - len(s.ids),
		Duplicated: s.duplicated, OutOfOrder: s.outOfOrder, Changed: s.changed,
	}
	if n := len(s.latencies); n > 0 {
		sum.Median, sum.P99 = s.latencies[n/2], s.latencies[n*99/100]
	}
	return sum
}
