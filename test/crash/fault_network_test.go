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

// side is one of the two connections that a network fault can hit.
type side struct{ name string }

var (
	pgSide    = side{"Postgres"}
	kafkaSide = side{"Kafka"}
)

func (sd side) link(s *stage) *harness.Link {
	if sd == kafkaSide {
		return s.kafkaLink
	}
	return s.main.pg
}

// networkFaults hit the connections to one server.
func networkFaults(sd side) []fault {
	name := "connections to " + sd.name + ": "
	on := func(run func(*harness.Link, *rand.Rand) error) func(context.Context, *stage, *rand.Rand) error {
		return func(_ context.Context, s *stage, r *rand.Rand) error { return run(sd.link(s), r) }
	}
	return []fault{
		{name + "closed", 6, on(func(l *harness.Link, _ *rand.Rand) error { return l.Cut() })},
		{name + "closed and refused", 4, on(refused)},
		{name + "reset", 4, on(reset)},
		{name + "slow", 3, on(slow)},
		{name + "stalled", 3, on(stalled)},
		{name + "black hole to the server", 3, on(blackHole(harness.ToServer))},
		{name + "black hole to walpost", 3, on(blackHole(harness.ToWalpost))},
		{name + "black hole for long", 1, longBlackHole(sd)},
		{name + "cut after some bytes to the server", 5, on(cutAfter(harness.ToServer))},
		{name + "cut after some bytes to walpost", 7, on(cutAfter(harness.ToWalpost))},
	}
}

func refused(l *harness.Link, r *rand.Rand) error {
	if err := l.Refuse(); err != nil {
		return err
	}
	<-time.After(between(r, 50*time.Millisecond, 800*time.Millisecond)) // refused meanwhile
	return l.Accept()
}

// reset makes the next chunk in one direction reset its connection.
func reset(l *harness.Link, r *rand.Rand) error {
	return during(l, between(r, 20*time.Millisecond, 300*time.Millisecond), "reset_peer", map[string]int64{"timeout": 0}, one(r, harness.Directions...))
}

// during keeps a toxic for some time.
func during(l *harness.Link, d time.Duration, kind string, attributes map[string]int64, to ...harness.Direction) error {
	for _, dir := range to {
		if err := l.Add(kind, dir, attributes); err != nil {
			return err
		}
	}
	<-time.After(d) // what happens in it is the test
	return l.Heal()
}

func slow(l *harness.Link, r *rand.Rand) error {
	latency := map[string]int64{"latency": 20 + r.Int64N(200), "jitter": r.Int64N(20)}
	return during(l, between(r, 300*time.Millisecond, 1200*time.Millisecond), "latency", latency, harness.Directions...)
}

// stalled lets hardly anything through, and loses nothing.
func stalled(l *harness.Link, r *rand.Rand) error {
	return during(l, between(r, 100*time.Millisecond, 900*time.Millisecond), "bandwidth", map[string]int64{"rate": 1 + r.Int64N(8)}, one(r, harness.Directions...))
}

// blackHole swallows what flows one way. The connections are closed after it: they
// have lost bytes.
func blackHole(d harness.Direction) func(*harness.Link, *rand.Rand) error {
	return func(l *harness.Link, r *rand.Rand) error {
		return during(l, between(r, 50*time.Millisecond, 900*time.Millisecond), "timeout", map[string]int64{"timeout": 0}, d)
	}
}

// longBlackHole lasts until both ends must have noticed by themselves. In one of
// Kafka the database's stream is kept alive, and the server has no reason to end it.
func longBlackHole(sd side) func(context.Context, *stage, *rand.Rand) error {
	return func(_ context.Context, s *stage, r *rand.Rand) error {
		if err := s.recovered(); err != nil {
			return err
		}
		before := s.main.Log()
		err := during(sd.link(s), between(r, 2*senderTimeout, 3*senderTimeout), "timeout", map[string]int64{"timeout": 0}, one(r, harness.Directions...))
		s.ended()
		if err := errors.Join(err, s.recovered()); err != nil || sd != kafkaSide {
			return err
		}
		if since := s.main.Log()[len(before):]; strings.Contains(since, "stream: receive") {
			return fmt.Errorf("the server ended the stream though only Kafka was away:\n%s", tail(since))
		}
		return nil
	}
}

// cutAfter closes each connection after a number of bytes, several times over.
func cutAfter(d harness.Direction) func(*harness.Link, *rand.Rand) error {
	return func(l *harness.Link, r *rand.Rand) error {
		bytes := int64(1) << r.IntN(18)
		bytes += r.Int64N(bytes)
		return during(l, between(r, 100*time.Millisecond, 700*time.Millisecond), "limit_data", map[string]int64{"bytes": bytes}, d)
	}
}
