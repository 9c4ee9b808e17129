package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// side is one of the two connections that a network fault can hit.
type side struct{ name string }

var (
	pgSide    = side{"Postgres"}
	kafkaSide = side{"Kafka"}
)

func (sd side) link(s *stage) *link {
	if sd == kafkaSide {
		return s.kafkaLink
	}
	return s.main.pg
}

// networkFaults hit the connections to one server.
func networkFaults(sd side) []fault {
	name := "connections to " + sd.name + ": "
	on := func(run func(*link, *rand.Rand) error) func(context.Context, *stage, *rand.Rand) error {
		return func(_ context.Context, s *stage, r *rand.Rand) error { return run(sd.link(s), r) }
	}
	return []fault{
		{name + "closed", 6, on(func(l *link, _ *rand.Rand) error { return l.cut() })},
		{name + "closed and refused", 4, on(refused)},
		{name + "reset", 4, on(reset)},
		{name + "slow", 3, on(slow)},
		{name + "stalled", 3, on(stalled)},
		{name + "black hole to the server", 3, on(blackHole(toServer))},
		{name + "black hole to walpost", 3, on(blackHole(toClient))},
		{name + "black hole for long", 1, longBlackHole(sd)},
		{name + "cut after some bytes to the server", 5, on(cutAfter(toServer))},
		{name + "cut after some bytes to walpost", 7, on(cutAfter(toClient))},
	}
}

func refused(l *link, r *rand.Rand) error {
	l.refuse()
	<-time.After(between(r, 50*time.Millisecond, 800*time.Millisecond)) // refused meanwhile
	return l.accept()
}

// reset makes the next chunk in one direction reset its connection.
func reset(l *link, r *rand.Rand) error {
	return during(l, between(r, 20*time.Millisecond, 300*time.Millisecond), "reset_peer", map[string]int64{"timeout": 0}, one(r, directions...))
}

// during keeps a toxic for some time.
func during(l *link, d time.Duration, kind string, attributes map[string]int64, to ...direction) error {
	for _, dir := range to {
		if err := l.add(kind, dir, attributes); err != nil {
			return err
		}
	}
	<-time.After(d) // what happens in it is the test
	return l.heal()
}

func slow(l *link, r *rand.Rand) error {
	latency := map[string]int64{"latency": 20 + r.Int64N(200), "jitter": r.Int64N(20)}
	return during(l, between(r, 300*time.Millisecond, 1200*time.Millisecond), "latency", latency, directions...)
}

// stalled lets hardly anything through, and loses nothing.
func stalled(l *link, r *rand.Rand) error {
	return during(l, between(r, 100*time.Millisecond, 900*time.Millisecond), "bandwidth", map[string]int64{"rate": 1 + r.Int64N(8)}, one(r, directions...))
}

// blackHole swallows what flows one way. The connections are closed after it: they
// have lost bytes.
func blackHole(d direction) func(*link, *rand.Rand) error {
	return func(l *link, r *rand.Rand) error {
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
		err := during(sd.link(s), between(r, 2*senderTimeout, 3*senderTimeout), "timeout", map[string]int64{"timeout": 0}, one(r, directions...))
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
func cutAfter(d direction) func(*link, *rand.Rand) error {
	return func(l *link, r *rand.Rand) error {
		bytes := int64(1) << r.IntN(18)
		bytes += r.Int64N(bytes)
		return during(l, between(r, 100*time.Millisecond, 700*time.Millisecond), "limit_data", map[string]int64{"bytes": bytes}, d)
	}
}
