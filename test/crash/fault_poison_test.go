package crash

import (
	"context"
	"crypto/md5" //nolint:gosec // compares bytes; nobody attacks
	"encoding/base64"
	"encoding/json"
	"errors"
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
	// oversize is what a row has of random bytes, in base64: more than a topic takes, also
	// compressed. It takes raisedLimit.
	oversize    = 1_200_000
	raisedLimit = "3000000"
)

// createDeadLetterTopics makes each shard's topic as an operator would.
func (s *stage) createDeadLetterTopics(admin *kadm.Client) error {
	forever, large := "-1", "10000000"
	var topics []string
	s.each(func() { topics = append(topics, s.slot+".dead-letters") })
	res, err := admin.CreateTopics(s.t.Context(), 1, 1, map[string]*string{"retention.ms": &forever, "max.message.bytes": &large}, topics...)
	if err == nil {
		err = res.Error()
	}
	return err
}

// grave is what a fault has written that is poison, and events that wait behind it.
type grave struct {
	key     *key
	other   *key // of the row without a topic
	retried bool
	dead    []dead
}

// dead is a row that is poison.
type dead struct {
	id, payload string
	shard       int
}

// poison writes an oversize row with events of its key behind it, one without a key, and
// one without a topic. Walpost is killed, or stopped, or not; then each of them must be
// a dead letter of its shard, with its bytes. What is retried or discarded after that, with a kill in
// the midst of it where nothing may come again, leaves the events behind it in order,
// which the ledger sees.
func poison(ctx context.Context, s *stage, r *rand.Rand, action string) error {
	keys := s.writer.keys(fmt.Sprintf("poison-%d", r.Uint64()), 2)
	g := &grave{key: keys[0], other: keys[1], retried: action == "retry"}
	s.shard = s.all[g.key.shard]
	before, err := s.checkpoint()
	if err != nil {
		return err
	}
	begun, main, logged := time.Now(), s.main, len(s.main.Log())
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
	if s.main == main && strings.Contains(main.Log()[logged:], "without a row that was refused") { // it knew the limit of an earlier fault
		s.reasons = append(s.reasons, interruption{why: "refused by the broker", from: begun, until: time.Now(), saved: before.saved})
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
	s.each(func() {
		err = errors.Join(err, s.succeeds(s.dlq("discard", "--all", "--with-parked", "--wait", "40s")))
	})
	if err != nil {
		return err
	}
	if err := s.configureTopic(ctx, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: "max.message.bytes"}); err != nil {
		return err
	}
	s.each(func() { err = errors.Join(err, s.noneDead()) })
	return err
}

// noneDead wants the shard to have no dead letters.
func (s *stage) noneDead() error {
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

// keyless is the shard of an event without a key.
const keyless = 0

// write writes what is poison, and events of the key around the oversize one.
func (g *grave) write(ctx context.Context, t *txn) error {
	g.dead = nil // it may be tried again
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
	g.dead = append(g.dead, dead{large.id, fill, g.key.shard})
	rows = append(rows, large)
	if err := t.insert(ctx, "outbox", append(rows, g.parked(t, 3)...)); err != nil {
		return err
	}
	for _, bad := range []struct {
		key   *string
		route string
		shard int
	}{{nil, "0", keyless}, {&g.other.name, "no/topic", g.other.shard}} {
		d := dead{t.newID().String(), "poison of route " + bad.route, bad.shard}
		g.dead = append(g.dead, d)
		if _, err := t.conn.Exec(ctx, "INSERT INTO outbox (id, aggregateid, aggregatetype, type, payload, seq) VALUES ($1::text::uuid, $2, $3, $4, $5, -1)",
			d.id, bad.key, bad.route, eventType, d.payload); err != nil {
			return err
		}
	}
	return nil
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

// checkDead wants each poison row to be a dead letter of its shard and of no other.
func (s *stage) checkDead(g *grave) (err error) {
	s.each(func() {
		for _, d := range g.dead {
			p := s.dlq("show", d.id, "-o", "json")
			if s.shard == s.all[d.shard] {
				err = errors.Join(err, s.shows(p, d))
			} else if s.succeeds(p) == nil || !strings.Contains(p.Log(), "no dead letter has") {
				err = errors.Join(err, fmt.Errorf("dead letter %s of %s in slot %s: %.2000s", d.id, s.all[d.shard].slot, s.slot, tail(p.Log())))
			}
		}
	})
	return err
}

// shows wants the command to print the row's bytes.
func (s *stage) shows(p *harness.Process, d dead) error {
	if err := s.succeeds(p); err != nil {
		return err
	}
	var shown struct {
		Payload []byte `json:"payload_base64"`
	}
	if err := json.Unmarshal([]byte(p.Log()), &shown); err != nil {
		return fmt.Errorf("dead letter %s: %w", d.id, err)
	}
	if string(shown.Payload) != d.payload {
		return fmt.Errorf("dead letter %s has %d bytes, want the %d of the row", d.id, len(shown.Payload), len(d.payload))
	}
	return nil
}

// dlq starts a command of walpost dlq for the shard, past the link.
func (s *stage) dlq(args ...string) *harness.Process {
	return harness.Start(s.t, s.binary, append(s.settings(), "WALPOST_KAFKA_BROKERS="+strings.Join(s.brokers, ",")), append([]string{"dlq"}, args...)...)
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
