package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/test/harness"
)

// right is one that the user needs on the broker, as the README lists them.
type right struct {
	name     string
	resource func(b *kadm.ACLBuilder, s *stage) *kadm.ACLBuilder
	prefix   bool
	op       kadm.ACLOperation
	atStart  bool // it is used at a start only
}

func topicNamed(suffix string) func(*kadm.ACLBuilder, *stage) *kadm.ACLBuilder {
	return func(b *kadm.ACLBuilder, s *stage) *kadm.ACLBuilder { return b.Topics(s.topic + suffix) }
}

func transactionalIDs(b *kadm.ACLBuilder, _ *stage) *kadm.ACLBuilder {
	return b.TransactionalIDs("walpost-")
}

// rights are the least ones of each way to run.
var rights = []struct {
	name     string
	settings func(s *stage) []string
	rights   []right
}{
	{
		name:     "AtLeastOnce",
		settings: func(*stage) []string { return nil },
		rights:   []right{{name: "write the topic", resource: topicNamed(""), op: kadm.OpWrite}},
	},
	{
		name: "ExactlyOnce",
		settings: func(s *stage) []string {
			return []string{"DELIVERY_GUARANTEE=exactly-once", "CHECKPOINT_TOPIC=" + s.topic + ".progress"}
		},
		rights: []right{
			{name: "write the topic", resource: topicNamed(""), op: kadm.OpWrite},
			{name: "write the transactional ids", resource: transactionalIDs, prefix: true, op: kadm.OpWrite},
			{name: "write the progress topic", resource: topicNamed(".progress"), op: kadm.OpWrite},
			{name: "read the progress topic", resource: topicNamed(".progress"), op: kadm.OpRead, atStart: true},
			{name: "create the progress topic", resource: topicNamed(".progress"), op: kadm.OpCreate, atStart: true},
		},
	},
	{
		name: "DeadLetters",
		settings: func(s *stage) []string {
			return []string{"DELIVERY_POISON=dead-letter", "DELIVERY_DEAD_LETTER_TOPIC=" + s.topic + ".dead", "KAFKA_CREATE_TOPICS=true"}
		},
		rights: []right{
			{name: "write the topic", resource: topicNamed(""), op: kadm.OpWrite},
			{name: "write the dead-letter topic", resource: topicNamed(".dead"), op: kadm.OpWrite, atStart: true},
			{name: "read the dead-letter topic", resource: topicNamed(".dead"), op: kadm.OpRead, atStart: true},
			{name: "create the dead-letter topic", resource: topicNamed(".dead"), op: kadm.OpCreate, atStart: true},
		},
	},
}

func (r right) acl(s *stage) *kadm.ACLBuilder {
	pattern := kadm.ACLPatternLiteral
	if r.prefix {
		pattern = kadm.ACLPatternPrefixed
	}
	return r.resource(kadm.NewACLs(), s).ResourcePatternType(pattern).Operations(r.op).Allow("User:" + kafkaUser).AllowHosts("*")
}

// withdraw takes rights back.
func (k *secureKafka) withdraw(t *testing.T, acls *kadm.ACLBuilder) {
	t.Helper()
	results, err := k.admin.DeleteACLs(t.Context(), acls)
	if err != nil || len(results) != 1 || results[0].Err != nil || len(results[0].Deleted) != 1 {
		t.Fatalf("delete ACL: %+v, %v", results, err)
	}
}

// Walpost runs with the rights that the README lists and no others. Without one of
// them nothing is delivered nor confirmed, and /readyz and the log say which it may be;
// given back, all goes on: nothing is lost, and nothing repeated.
func TestKafkaRights(t *testing.T) {
	k := newSecureKafka(t)
	for _, tt := range rights {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t, envtest.NewDatabase(t), k.Addrs())
			s.set(k.login(saslListener, "SCRAM-SHA-512", kafkaPassword)...)
			s.set(tt.settings(s)...)
			for _, r := range tt.rights {
				k.create(t, r.acl(s))
			}
			t.Cleanup(func() { // some are of more than this stage
				for _, r := range tt.rights {
					_, _ = k.admin.DeleteACLs(context.Background(), r.acl(s))
				}
			})
			next := int64(1)
			fill := func() { s.fill(harness.OneRow, next, next+99); next += 100 }
			p := s.start("run")
			fill()
			s.caughtUp(time.Minute)
			if bad, code := s.doctor(); code != 0 {
				t.Errorf("doctor fails with the least rights: %+v", bad)
			}
			for _, r := range tt.rights {
				if r.atStart {
					continue
				}
				logged := len(p.Log())
				k.withdraw(t, r.acl(s))
				fill()
				s.forbidden(p, logged, r.name)
				k.create(t, r.acl(s))
				begun := time.Now()
				s.caughtUp(time.Minute)
				s.isReady(30 * time.Second)
				fmt.Printf("FIGURES %s: without the right to %s; caught up %.1f s after it was given back\n", tt.name, r.name, time.Since(begun).Seconds())
			}
			s.stop(p)
			for _, r := range tt.rights {
				if !r.atStart || r.op == kadm.OpCreate {
					continue // what is there is not created
				}
				k.withdraw(t, r.acl(s))
				fill()
				p := s.start("run")
				s.forbidden(p, 0, r.name)
				k.create(t, r.acl(s))
				s.caughtUp(time.Minute)
				s.stop(p)
			}
			r := s.compare(harness.CheckCommitted)
			fmt.Printf("FIGURES %s: rights withdrawn and given back: %s\n", tt.name, r)
			if r.Duplicated > 0 {
				t.Errorf("%d duplicates", r.Duplicated)
			}
		})
	}
}

// forbidden waits until /readyz and the log, from an offset on, say that a right is
// lacking, and wants nothing confirmed meanwhile.
func (s *stage) forbidden(p *harness.Process, from int, right string) {
	s.t.Helper()
	text, log := "", ""
	harness.Eventually(s.t, 20*time.Second, "/readyz 503 and a warning without the right to "+right, func() bool {
		var code int
		code, text = s.ready()
		log = p.Log()[from:]
		return code == 503 && strings.Contains(text, "AUTHORIZATION_FAILED") && strings.Contains(log, "AUTHORIZATION_FAILED") && strings.Contains(log, "allow the user to")
	})
	before := s.confirmed()
	select {
	case <-p.Exited():
		s.t.Fatalf("walpost ended without the right to %s", right)
	case <-time.After(1500 * time.Millisecond): // longer than the checkpoint interval
	}
	if after := s.confirmed(); after != before {
		s.t.Errorf("without the right to %s confirmed moved from %s to %s", right, before, after)
	}
}
