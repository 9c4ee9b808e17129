package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/walpost/walpost/internal/config"
	"github.com/walpost/walpost/test/harness"
)

// shard is one share of the keys: the walpost that publishes it, its slot, and what is
// known of both. A stage without shards has one, of all keys.
type shard struct {
	config.Shard
	slot    string           // also what its sessions are called
	pgLinks [2]*harness.Link // an instance takes what the main one has not, so that that can be cut off from its successor

	main     *instance
	sampler  *sampler
	progress *progress // of exactly-once
	reasons  []interruption
}

// newShards makes a block's shards.
func (s *stage) newShards() {
	for n := range s.shards {
		sh := &shard{}
		if s.shards > 1 {
			sh.Shard = config.Shard{Index: n, Count: s.shards}
		}
		sh.slot = sh.Name(slotName)
		sh.progress = newProgress(sh.slot, s.real)
		for i := range sh.pgLinks {
			sh.pgLinks[i] = harness.NewLink(s.t, "postgres")
			sh.pgLinks[i].To(s.t, s.pgURL().Host)
		}
		s.all = append(s.all, sh)
	}
	s.shard = s.all[0]
}

// newSampler watches the shard's slot.
func (s *stage) newSampler() *sampler {
	sm := &sampler{
		slot: s.slot, ledger: s.ledger, admin: kadm.NewClient(newClient(s.t, s.brokers)),
		exact: s.exact, topics: s.ledger.topics, partitions: topicPartitions,
	}
	if s.exact {
		sm.topics, sm.partitions = []string{progressTopic}, 1
	}
	return sm
}

// each does something with each shard picked.
func (s *stage) each(do func()) {
	picked := s.shard
	for _, s.shard = range s.all {
		do()
	}
	s.shard = picked
}

// pick makes a shard the one that a fault hits. Its seed decides, and it decides the settings
// of the instances that the fault starts, however many those before it have started.
func (s *stage) pick(seed uint64) {
	s.shard = s.all[rand.New(rand.NewPCG(seed, 1)).IntN(len(s.all))]
	s.rng = rand.New(rand.NewPCG(seed, 2))
}

// settings are those of all instances and commands of the shard.
func (s *stage) settings() []string {
	return append(s.env[:len(s.env):len(s.env)], "WALPOST_POSTGRES_SHARD="+s.Shard.String())
}

// shardsOf returns whose the keys are: what docs/design.md says, as the server reckons.
func (s *stage) shardsOf(keys []string) (of []int) {
	if s.shards == 1 {
		return make([]int, len(keys))
	}
	var last error
	if err := s.until(maxRecovery, "the server tells whose the keys are", func() bool {
		last = s.query("SELECT array_agg((hashtext(k) & 2147483647) % $2 ORDER BY n) FROM unnest($1::text[]) WITH ORDINALITY u(k, n)", []any{keys, s.shards}, &of)
		return last == nil
	}); err != nil {
		s.t.Fatal(errors.Join(err, last))
	}
	return of
}

// query reads one row on a connection of its own, past the link.
func (s *stage) query(sql string, args []any, into ...any) error {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	conn, err := connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return conn.QueryRow(ctx, sql, args...).Scan(into...)
}

// published alters the publications of all shards.
func (s *stage) published(change string) (statements []string) {
	for _, sh := range s.all {
		statements = append(statements, "ALTER PUBLICATION "+sh.Name(slotName)+" "+change)
	}
	return statements
}

// logs returns the ends of the logs of all main instances.
func (s *stage) logs() string {
	var all []string
	s.each(func() { all = append(all, s.main.name+":\n"+tail(s.main.Log())) })
	return strings.Join(all, "\n")
}

// accounts are what the checker knows of each shard.
func (s *stage) accounts() (all []account) {
	s.each(func() {
		a := account{saved: samples(s.sampler.samples), reasons: s.reasons}
		if s.exact {
			a = account{saved: s.progress.all}
		}
		all = append(all, a)
	})
	return all
}

// shardFaults hit all shards in the same moment.
var shardFaults = []fault{
	{"all shards: kill -9", 6, allKilled},
	{"all shards: SIGTERM", 6, allStopped},
}

func allKilled(_ context.Context, s *stage, _ *rand.Rand) (err error) {
	s.ended()
	s.each(func() { s.main.Signal(syscall.SIGKILL) })
	s.each(func() {
		err = errors.Join(err, s.kill(s.main))
		s.restart()
	})
	return err
}

func allStopped(_ context.Context, s *stage, _ *rand.Rand) (err error) {
	s.ended()
	begun := time.Now()
	s.each(func() {
		s.main.asked = true
		stop(s.main)
	})
	s.each(func() {
		err = errors.Join(err, s.stopped(s.main, begun))
		s.restart()
	})
	return err
}

// split prints how the events are shared.
func split(s *stage, v verdict) string {
	if s.shards == 1 {
		return ""
	}
	return fmt.Sprintf(", %v of the shards", v.shares)
}
