package guard

import (
	"context"
	"slices"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/deadletter"
)

// sink has some records in flight, and acknowledges them together, the last one first.
type sink struct {
	max    int       // records in flight
	log    letterLog // that letters go to; nil without dead letters
	flying []*cdc.Record
	done   func(*cdc.Record, error)
}

// inFlight is how many a sink has in flight that keeps up.
const inFlight = 64

// Produce implements [cdc.Sink].
func (s *sink) Produce(_ context.Context, r *cdc.Record, done func(*cdc.Record, error)) error {
	if r.Topic == letterTopic {
		s.log.keep(r)
		done(r, nil)
		return nil
	}
	s.flying, s.done = append(s.flying, r), done
	if len(s.flying) == s.max {
		s.land()
	}
	return nil
}

// Flush implements [cdc.Sink].
func (s *sink) Flush(context.Context) error {
	s.land()
	return nil
}

func (s *sink) land() {
	for i := len(s.flying) - 1; i >= 0; i-- {
		s.done(s.flying[i], nil)
	}
	s.flying = s.flying[:0]
}

const letterTopic = "walpost.dead-letters"

func newDeadLetters() *cdc.DeadLetters {
	return &cdc.DeadLetters{
		Topic: letterTopic, Slot: "walpost", Log: make(letterLog, 8), Decode: deadletter.Decode,
		Encode: func(l *cdc.Letter, r *cdc.Record) { deadletter.Encode(letterTopic, l, r) },
	}
}

// letterLog is the dead-letter topic, from which each letter is read once.
type letterLog chan cdc.Logged

func (l letterLog) keep(r *cdc.Record) {
	kept := *r
	kept.Headers = slices.Clone(r.Headers)
	l <- cdc.Logged{Record: &kept}
}

// Fetch implements [cdc.LetterLog].
func (l letterLog) Fetch(ctx context.Context, from int64) ([]cdc.Logged, error) {
	select {
	case r := <-l:
		r.Offset = from
		return []cdc.Logged{r}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Trim implements [cdc.LetterLog].
func (letterLog) Trim(context.Context, int64) error { return nil }
