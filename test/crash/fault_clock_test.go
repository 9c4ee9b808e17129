package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// clockFaults move walpost's wall clock, by a second or by a year. It must not take
// that for silence of a server, nor fail to notice silence.
var clockFaults = []fault{
	{"clock: jumps ahead", 3, clockJumps(1)},
	{"clock: jumps back", 3, clockJumps(-1)},
	{"clock: jumps back while Postgres is silent", 1, clockBackInSilence},
}

// clockJumps moves the clock many times, since a jump shows only in the moment until
// something comes from the server again. Half of the time it is not put right before
// another of these faults.
func clockJumps(sign time.Duration) func(context.Context, *stage, *rand.Rand) error {
	return func(_ context.Context, s *stage, r *rand.Rand) error {
		if err := s.recovered(); err != nil {
			return err
		}
		before := map[*instance]int{}
		s.each(func() { before[s.main] = len(s.main.Log()) })
		for range 5 + r.IntN(20) {
			if err := s.clock.set(sign * one(r, time.Second, 5*time.Second, time.Minute, time.Hour, 365*24*time.Hour)); err != nil {
				return err
			}
			<-time.After(between(r, 0, 100*time.Millisecond)) // it goes on meanwhile
		}
		if r.IntN(2) == 0 {
			if err := s.clock.set(0); err != nil {
				return err
			}
		}
		s.ended()
		err := s.recovered()
		for i, n := range before {
			if since := i.Log()[n:]; strings.Contains(since, "interrupted") {
				err = errors.Join(err, fmt.Errorf("%s: the stream ended though only the clock was moved:\n%s", i.name, tail(since)))
			}
		}
		return err
	}
}

// clockBackInSilence moves the clock back while nothing comes from Postgres any more:
// walpost must notice that as soon as ever.
func clockBackInSilence(ctx context.Context, s *stage, r *rand.Rand) error {
	if err := s.recovered(); err != nil {
		return err
	}
	open := func() bool { // the log leaves out what it has said some seconds ago
		state, ok := harness.Metric(ctx, s.main.admin, `walpost_circuit_state{component="postgres"}`)
		return !ok || state != 0
	}
	if err := s.until(4*senderTimeout, "the circuit to Postgres is closed", func() bool { return !open() }); err != nil {
		return err
	}
	if err := s.main.pg.Add("timeout", harness.ToWalpost, map[string]int64{"timeout": 0}); err != nil {
		return err
	}
	<-time.After(between(r, 0, time.Second)) // silent before
	err := s.clock.set(-one(r, time.Minute, time.Hour))
	if err == nil {
		err = s.until(4*senderTimeout, "walpost notices that Postgres is silent", open)
	}
	return errors.Join(err, s.main.pg.Heal())
}
