package bench

import (
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
)

// Summary is what a bench has found.
type Summary struct {
	Walpost  string `json:"walpost"`
	Postgres string `json:"postgres"`
	Kafka    string `json:"kafka"` // as far as its requests tell

	Guarantee   string `json:"guarantee"`
	Compression string `json:"compression"`
	Partitions  int    `json:"partitions"`
	Replicas    int    `json:"replicas"`
	Bytes       int    `json:"payload_bytes"`
	Batch       int    `json:"batch"`

	Load    Load    `json:"load"`
	Backlog Backlog `json:"backlog"`
	Steady  *Steady `json:"steady"` // null: left out, or not reached

	Written    int `json:"written"`
	Received   int `json:"received"` // distinct events
	Lost       int `json:"lost"`
	Duplicated int `json:"duplicated"`
	Changed    int `json:"changed"` // other than written
}

// Load is the writing of the backlog.
type Load struct {
	Events int           `json:"events"`
	Took   time.Duration `json:"took_ns"`
}

// Backlog is the publishing of the backlog. Times are from the start of the process.
type Backlog struct {
	Events      int           `json:"events"`
	Took        time.Duration `json:"took_ns"` // to the last event
	First       time.Duration `json:"first_ns"`
	CPU         time.Duration `json:"cpu_ns"`   // of the process until its end
	PeakRSS     int64         `json:"peak_rss"` // bytes; 0: unknown
	EventsRate  float64       `json:"events_per_second"`
	BytesRate   float64       `json:"payload_bytes_per_second"`
	CPUPerEvent time.Duration `json:"cpu_per_event_ns"`
}

func newBacklog(events, bytes int, first, last time.Duration, u usage) Backlog {
	b := Backlog{Events: events, Took: last, First: first, CPU: u.cpu, PeakRSS: u.rss}
	if events > 0 && last > 0 {
		b.EventsRate = float64(events) / last.Seconds()
		b.BytesRate = b.EventsRate * float64(bytes)
		b.CPUPerEvent = u.cpu / time.Duration(events)
	}
	return b
}

// Steady is the publishing of a stream.
type Steady struct {
	Rate     int           `json:"rate"` // events a second
	Duration time.Duration `json:"duration_ns"`
	Written  int           `json:"written"`
	Events   int           `json:"events"`   // that arrived
	Latency  Latency       `json:"latency"`  // from when an event was due to when it was read, without those of the first fifth
	Commit   Latency       `json:"commit"`   // from when a transaction was due to its commit, without the same
	CPU      time.Duration `json:"cpu_ns"`   // of the process until its end
	PeakRSS  int64         `json:"peak_rss"` // bytes; 0: unknown
}

// Latency is a distribution.
type Latency struct {
	P50  time.Duration `json:"p50_ns"`
	P90  time.Duration `json:"p90_ns"`
	P99  time.Duration `json:"p99_ns"`
	P999 time.Duration `json:"p99_9_ns"`
	Max  time.Duration `json:"max_ns"`
}

// count takes over what the reader has counted. What is written is what should have
// been: a phase that was not reached counts for nothing.
func (s *Summary) count(r *reader) {
	if r == nil {
		return
	}
	s.Written = s.Load.Events
	if s.Steady != nil {
		s.Written += s.Steady.Written
	}
	s.Received, s.Duplicated, s.Changed = r.received, r.duplicated, r.changed
	s.Lost = max(0, s.Written-s.Received)
}

// OK reports whether the figures add up.
func (s Summary) OK() bool {
	return s.Written > 0 && s.Received == s.Written && s.Lost+s.Duplicated+s.Changed == 0
}

// Print writes the summary.
func (s Summary) Print(w io.Writer) {
	line := func(what, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "%-10s  %s\n", what, fmt.Sprintf(format, args...))
	}
	line("versions", "walpost %s, Postgres %s, Kafka %s", s.Walpost, s.Postgres, s.Kafka)
	line("settings", "%s, %s, %s, %s, payloads of %d bytes, %s", s.Guarantee, s.Compression, plural(s.Partitions, "partition"),
		plural(s.Replicas, "replica"), s.Bytes, plural(s.Batch, "event")+" a transaction")
	line("load", "%s events in %s", humanize.Comma(int64(s.Load.Events)), human(s.Load.Took))
	if b := s.Backlog; b.Events > 0 {
		line("backlog", "%s events in %s from the start of the process, the first after %s", humanize.Comma(int64(b.Events)), human(b.Took), human(b.First))
		line("", "%s events/s, %.1f MB/s, %s CPU an event", humanize.Comma(int64(b.EventsRate)), b.BytesRate/1e6, human(b.CPUPerEvent))
		line("", "%s", process(b.CPU, b.PeakRSS))
	}
	if t := s.Steady; t != nil {
		line("steady", "%s events at %s a second", humanize.Comma(int64(t.Events)), humanize.Comma(int64(t.Rate)))
		line("latency", "%s (due to consumer, without the first fifth)", t.Latency)
		line("commit", "%s (due to committed)", t.Commit)
		line("", "%s", process(t.CPU, t.PeakRSS))
	}
	line("written", "%s", humanize.Comma(int64(s.Written)))
	line("received", "%s", humanize.Comma(int64(s.Received)))
	line("lost", "%s", humanize.Comma(int64(s.Lost)))
	line("duplicated", "%s", humanize.Comma(int64(s.Duplicated)))
	line("changed", "%s", humanize.Comma(int64(s.Changed)))
	verdict := "everything adds up"
	if !s.OK() {
		verdict = "SOMETHING IS WRONG"
	}
	_, _ = fmt.Fprintln(w, verdict)
}

func process(cpu time.Duration, rss int64) string {
	text := human(cpu) + " CPU"
	if rss > 0 {
		text += fmt.Sprintf(", %.0f MiB memory at its highest", float64(rss)/(1<<20))
	}
	return text
}

// String prints it for people.
func (l Latency) String() string {
	return fmt.Sprintf("p50 %s, p90 %s, p99 %s, p99.9 %s, longest %s", human(l.P50), human(l.P90), human(l.P99), human(l.P999), human(l.Max))
}

// human rounds to three digits.
func human(d time.Duration) string {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return humanize.Comma(int64(n)) + " " + what + "s"
}
