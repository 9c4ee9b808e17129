package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// clientLog is what the client library logs to. Its lines are debug lines of
// ours. Two of them are also how the library says, before it does it, that it
// will fail all that waits for a partition, and while nothing is acknowledged
// the detail of its debug lines says why.
type clientLog struct{ s *Sink }

// Level implements [kgo.Logger].
func (l clientLog) Level() kgo.LogLevel {
	if l.s.health.curious() {
		return kgo.LogLevelDebug
	}
	return kgo.LogLevelInfo
}

// Log implements [kgo.Logger]. It is called with locks of the library held.
func (l clientLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	line := parseLine(keyvals)
	switch {
	case line.final() && (passes(line.err) || isRefusal(line.err) || l.s.narrowing.Load()):
		l.s.narrowing.Store(true)
		l.s.metrics.retries.Inc()
		l.s.health.suspect(fmt.Errorf("%s: %w", partitionText(line.topic, line.partition), line.err))
	case line.final():
		l.s.giveUp(fmt.Errorf("write to topic %s: %w", line.topic, fenced(line.err)))
	case line.retrying != "":
		l.s.metrics.retries.Inc()
		l.s.health.suspect(errors.New(line.retrying))
	case line.err != nil && line.topic != "":
		l.s.health.suspect(fmt.Errorf("%s: %w", partitionText(line.topic, line.partition), line.err))
	}
	l.s.log.Log(context.Background(), slog.LevelDebug, msg, append(keyvals, "client_level", level.String())...)
}

// line is what a log line says.
type line struct {
	topic     string
	partition int32 // or -1
	err       error
	failed    bool   // a batch was refused
	willFail  bool   // a partition's records will be failed
	retrying  string // a batch is to be sent again, and why
}

// final reports whether the library is about to fail records with err.
func (l line) final() bool { return l.err != nil && (l.failed || l.willFail) }

func parseLine(keyvals []any) line {
	l := line{partition: -1}
	for i := 0; i+1 < len(keyvals); i += 2 {
		switch keyvals[i] {
		case "topic":
			l.topic, _ = keyvals[i+1].(string)
		case "partition":
			if n, ok := keyvals[i+1].(int32); ok {
				l.partition = n
			}
		case "err":
			l.err, _ = keyvals[i+1].(error)
		case "err_is_retryable":
			l.failed = true // only the line about a failed batch has this
		case "will_fail":
			l.willFail, _ = keyvals[i+1].(bool)
		case "to":
			to, _ := keyvals[i+1].(string)
			l.retrying = parseRetry(to)
		}
	}
	return l
}

// parseRetry finds the first batch that is to be sent again in a description
// of a produce response, as in "orders[0{3=>5}, 1{retrying@-1,2(NAME: text)}]",
// and returns the partition and the error's text.
func parseRetry(to string) string {
	before, after, ok := strings.Cut(to, "{retrying@")
	if !ok {
		return ""
	}
	if i := strings.LastIndex(before, "], "); i >= 0 {
		before = before[i+len("], "):]
	}
	topic, partitions, _ := strings.Cut(before, "[")
	partition := partitions[strings.LastIndex(partitions, " ")+1:]
	_, text, _ := strings.Cut(after, "(")
	text, _, _ = strings.Cut(text, ")}")
	return "topic " + topic + " partition " + partition + ": " + text
}
