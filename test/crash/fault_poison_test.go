package crash

import (
	"context"
	"crypto/md5" //nolint:gosec // compares bytes; nobody attacks
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/walpost/walpost/test/harness"
)

// poisonFaults write rows that can never be published. The instances of a real broker
// have dead letters.
var poisonFaults = []fault{
	{"poison: retried", 3, func(ctx context.Context, s *stage, r *rand.Rand) error { return poison(ctx, s, r, "retry") }},
	{"poison: discarded", 2, func(ctx context.Context, s *stage, r *rand.Rand) error { return poison(ctx, s, r, "discard") }},
}

const (
	deadLetterTopic = slotName + ".dead-letters"

	// oversize is what a row has of random bytes, in base64: more than a topic takes, also
	// compressed. It takes raisedLimit.
	oversize    = 1_200_000
	raisedLimit = "3000000"
)

// createDeadLetterTopic makes the topic as an operator would.
func (s *stage) createDeadLetterTopic(admin *kadm.Client) error {
	forever, large := "-1", "10000000"
	res, err := admin.CreateTopics(s.t.Context(), 1, 1, map[string]*string{"retention.ms": &forever, "max.message.bytes": &large}, deadLetterTopic)
	if err == nil {
		err = res.Error()
	}
	return err
}

// grave is what a fault has written that is poison, and events that wait behind it.
type grave struct {
	key     *key
	retried bool
	ids     []string          // of the rows that are poison
	bytes   map[string]string // their payloads
}

// poison writes an oversize row with events of its key behind it, one without a key, and
// one without a topic. Walpost is killed, or stopped, or not; then each of them must be
// a dead letter with its bytes. What is retried or discarded after that, with a kill in
// the midst of it where nothing may come again, leaves the events behind it in order,
// which the ledger sees.
func poison(ctx context.Context, s *stage, r *rand.Rand, action string) error {
	g := &grave{key: &key{name: fmt.Sprintf("poison-%d", r.Uint64()), route: "0"}, retried: action == "retry"}
	if err := s.writeSurely(func(ctx context.Context, t *txn) error { return g.write(ctx, t) }); err != nil {
		return err
	}
	if err := interrupt(s, r.IntN(3)); err != nil {
		return err
	}
	if err := s.writeSurely(func(ctx context.Context, t *txn) error { return g.park(ctx, t, 1+r.IntN(200)) }); err != nil {
		return err
	}
	if err := s.recovered(); err != nil {
		return err
	}
	if err := s.checkDead(g); err != nil {
		return err
	}
	limit := raisedLimit
	if err := s.configureTopic(ctx, kadm.AlterConfig{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &limit}); err != nil {
		return err
	}
	asked := s.dlq(action, "--key", g.key.name, "--wait", "40s")
	if s.exact && r.IntN(2) == 0 {
		<-time.After(between(r, 0, time.Second)) // the moment is the test
		if err := interrupt(s, 1); err != nil {
			return err
		}
	}
	if err := s.succeeds(asked); err != nil {
		return err
	}
	if err := s.succeeds(s.dlq("discard", "--all", "--with-parked", "--wait", "40s")); err != nil {
		return err
	}
	if err := s.configureTopic(ctx, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: "max.message.bytes"}); err != nil {
		return err
	}
	list := s.dlq("list")
	if err := s.succeeds(list); err != nil {
		return err
	}
	if !strings.Contains(list.Log(), "no dead letters") {
		return fmt.Errorf("still dead: %s", tail(list.Log()))
	}
	return nil
}

// interrupt ends the main instance in one of two ways, or does not, and starts another.
func interrupt(s *stage, how int) error {
	if how == 0 {
		return nil
	}
	end := s.kill
	if how == 2 {
		end = s.stop
	}
	if err := end(s.main); err != nil {
		return err
	}
	s.restart()
	return nil
}

// writeSurely writes until it is committed.
func (s *stage) writeSurely(fn func(ctx context.Context, t *txn) error) error {
	var err error
	if e := s.until(maxRecovery, "the writer can write", func() bool {
		err = s.probe.write(s.t.Context(), fn)
		return err == nil
	}); e != nil {
		return fmt.Errorf("%w: %w", e, err)
	}
	return nil
}

// write writes what is poison, and events of the key around the oversize one.
func (g *grave) write(ctx context.Context, t *txn) error {
	g.ids, g.bytes = nil, map[string]string{} // it may be tried again
	mine := func() *key { return g.key }
	rows := t.rows(2, mine)
	random := make([]byte, oversize)
	for i := range random {
		random[i] = byte(t.rng.Uint32())
	}
	fill := base64.StdEncoding.EncodeToString(random)
	large := row{route: g.key.route, key: g.key.name, seq: -1}
	if g.retried {
		large = t.rows(1, mine)[0]
		ev := t.tx.events[len(t.tx.events)-1]
		ev.null, ev.sum, ev.parked = false, md5.Sum([]byte(fill)), true //nolint:gosec // see above
	} else {
		large.id = t.newID().String()
	}
	large.payload = &fill
	g.note(large.id, fill)
	rows = append(rows, large)
	if err := t.insert(ctx, "outbox", append(rows, g.parked(t, 3)...)); err != nil {
		return err
	}
	for _, bad := range []string{"NULL, '0'", "'k', 'no/topic'"} {
		id, payload := t.newID().String(), "poison "+bad
		g.note(id, payload)
		if _, err := t.conn.Exec(ctx, "INSERT INTO outbox (id, aggregateid, aggregatetype, type, payload, seq) VALUES ($1::text::uuid, "+bad+", $2, $3, -1)", id, eventType, payload); err != nil {
			return err
		}
	}
	return nil
}

func (g *grave) note(id, payload string) {
	g.ids = append(g.ids, id)
	g.bytes[id] = payload
}

// park writes n events that must wait.
func (g *grave) park(ctx context.Context, t *txn, n int) error {
	return t.insert(ctx, "outbox", g.parked(t, n))
}

func (g *grave) parked(t *txn, n int) []row {
	rows := t.rows(n, func() *key { return g.key })
	for _, ev := range t.tx.events[len(t.tx.events)-n:] {
		ev.parked = true
	}
	return rows
}

// checkDead wants each poison row to be a dead letter, with its bytes.
func (s *stage) checkDead(g *grave) error {
	for _, id := range g.ids {
		p := s.dlq("show", id, "-o", "json")
		if err := s.succeeds(p); err != nil {
			return err
		}
		var shown struct {
			Payload []byte `json:"payload_base64"`
		}
		if err := json.Unmarshal([]byte(p.Log()), &shown); err != nil {
			return fmt.Errorf("dead letter %s: %w", id, err)
		}
		if string(shown.Payload) != g.bytes[id] {
			return fmt.Errorf("dead letter %s has %d bytes, want the %d of the row", id, len(shown.Payload), len(g.bytes[id]))
		}
	}
	return nil
}

// dlq starts a command of walpost dlq, past the link.
func (s *stage) dlq(args ...string) *harness.Process {
	return harness.Start(s.t, s.binary, append(s.env, "WALPOST_KAFKA_BROKERS="+strings.Join(s.brokers, ",")), append([]string{"dlq"}, args...)...)
}

func (s *stage) succeeds(p *harness.Process) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	code, err := p.Wait(ctx)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit %d", code)
	}
	if err != nil {
		return fmt.Errorf("walpost %.200s: %w: %.2000s", strings.Join(p.Args, " "), err, tail(p.Log()))
	}
	return nil
}

// configureTopic changes a setting of the topic with the poison's route.
func (s *stage) configureTopic(ctx context.Context, c kadm.AlterConfig) error {
	res, err := s.sampler.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{c}, s.ledger.topics[0])
	for _, one := range res {
		if err == nil {
			err = one.Err
		}
	}
	return err
}
