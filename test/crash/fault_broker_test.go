package crash

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// brokerFaults hit a real broker.
var brokerFaults = []fault{
	{"broker: kill -9", 1, func(ctx context.Context, s *stage, r *rand.Rand) error {
		if err := s.kafka.Kill(ctx); err != nil {
			return err
		}
		<-time.After(between(r, 0, time.Second)) // away meanwhile
		return s.kafka.Start(ctx)
	}},
	{"broker: restart", 1, func(ctx context.Context, s *stage, _ *rand.Rand) error {
		if err := s.kafka.Stop(ctx); err != nil {
			return err
		}
		return s.kafka.Start(ctx)
	}},
	{"broker: frozen", 3, func(_ context.Context, s *stage, r *rand.Rand) error {
		if err := s.kafka.Pause(); err != nil {
			return err
		}
		<-time.After(between(r, 100*time.Millisecond, 2*time.Second)) // frozen meanwhile
		return s.kafka.Resume()
	}},
	{"broker: away while stopping", 8, stoppedWhileAway},
}

// acknowledgedBy is how long what is in Kafka may wait for its acknowledgement to
// reach walpost, while nothing is wrong.
const acknowledgedBy = 250 * time.Millisecond

// stoppedWhileAway stops walpost while its broker cannot be reached, for longer
// than it waits for what is in flight. What was acknowledged before must be saved
// all the same, and must not come again.
func stoppedWhileAway(_ context.Context, s *stage, r *rand.Rand) error {
	if err := s.recovered(); err != nil {
		return err
	}
	silence := between(r, 0, 300*time.Millisecond)
	cut := time.Now()
	for _, d := range harness.Directions {
		if err := s.kafkaLink.Add("timeout", d, map[string]int64{"timeout": 0}); err != nil {
			return err
		}
	}
	<-time.After(silence) // some records get stuck
	i := s.main
	i.asked = true
	stop(i)
	code, err := s.await(i, time.Minute) // some ten seconds are the client library's
	if err != nil {
		return errors.Join(err, s.kafkaLink.Heal())
	}
	c, err := s.checkpoint()
	if code != 0 {
		s.reasons = append(s.reasons, interruption{why: "drain ran out", from: cut, until: time.Now(), saved: c.saved, whole: cut.Add(-acknowledgedBy)})
	}
	s.ended()
	s.restart()
	if heal := s.kafkaLink.Heal(); heal != nil {
		return heal
	}
	return err
}
