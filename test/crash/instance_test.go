package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// instance is one run of walpost.
type instance struct {
	*harness.Process
	pg    *harness.Link // to Postgres
	admin string
	name  string
	asked bool // to end
}

// choice is a setting that an instance may have; the seed chooses.
type choice struct {
	name   string
	values []string
}

var choices = []choice{
	{"CHECKPOINT_INTERVAL", []string{"100ms", "1s", "3s"}},
	{"DELIVERY_MAX_TX_MEMORY", []string{"64KiB", "1MiB", "8MiB"}},
	{"DELIVERY_MAX_IN_FLIGHT_BYTES", []string{"1MiB", "24MiB"}},
	{"DELIVERY_MAX_UNCONFIRMED_EVENTS", []string{"500", "1000000"}},
	{"POSTGRES_PULL_ABOVE", []string{"16KiB", "1MiB", "32MiB"}}, // the least makes it pull again and again
	{"POSTGRES_STATUS_INTERVAL", []string{"200ms", "5s"}},
}

// transactionTimeouts are what exactly-once chooses from: the least ends in many a
// fault.
var transactionTimeouts = choice{"KAFKA_TRANSACTION_TIMEOUT", []string{"2s", "1m"}}

// start starts an instance of the shard, with settings that take the place of those that the seed
// chooses.
func (s *stage) start(settings ...string) *instance {
	s.t.Helper()
	if err := os.MkdirAll(s.spillDir(), 0o700); err != nil {
		s.t.Fatal(err)
	}
	i := &instance{pg: s.pgLinks[0], admin: harness.FreeAddr(s.t), name: fmt.Sprintf("walpost %d of slot %s", len(s.instances)+1, s.slot)}
	if s.main != nil && s.main.pg == i.pg {
		i.pg = s.pgLinks[1]
	}
	dsn := s.pgURL()
	dsn.Host, dsn.User = i.pg.Addr(), url.UserPassword(roleName, rolePassword)
	query := dsn.Query()
	query.Set("application_name", s.slot)
	dsn.RawQuery = query.Encode()
	env := append([]string{"WALPOST_ADMIN_LISTEN=" + i.admin, "WALPOST_POSTGRES_DSN=" + dsn.String()}, s.settings()...)
	chosen := choices
	if s.exact {
		chosen = append(slices.Clone(choices), transactionTimeouts)
	}
	for _, c := range chosen {
		env = append(env, "WALPOST_"+c.name+"="+one(s.rng, c.values...))
	}
	i.Process = harness.Start(s.t, s.binary, append(env, settings...), "run")
	s.instances = append(s.instances, i)
	return i
}

// until polls cond, and returns an error if it does not hold within limit.
func (s *stage) until(limit time.Duration, what string, cond func() bool) error {
	deadline := time.Now().Add(limit)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %s", limit, what)
		}
		<-ticker.C
	}
	return nil
}

func (s *stage) waitReady(i *instance) {
	if err := s.until(30*time.Second, i.name+" ready", func() bool {
		code, _ := harness.Ready(s.t.Context(), i.admin)
		return code == 200
	}); err != nil {
		s.t.Fatalf("%v\n%s", err, i.Log())
	}
}

// standbyWord is what a standby answers at /readyz.
const standbyWord = "standby"

// standby starts an instance that waits for the shard's slot while the main one owns it.
func (s *stage) standby(settings ...string) (*instance, error) {
	if err := s.recovered(); err != nil {
		return nil, err
	}
	i := s.start(settings...)
	err := s.until(20*time.Second, i.name+" as standby", func() bool {
		code, word := harness.Ready(s.t.Context(), i.admin)
		return code == 200 && word == standbyWord
	})
	if err != nil {
		_, word := harness.Ready(s.t.Context(), i.admin)
		err = fmt.Errorf("%w; it says %q, and its log ends:\n%s\nthat of the owner:\n%s", err, word, tail(i.Log()), tail(s.main.Log()))
		return nil, errors.Join(err, s.kill(i))
	}
	return i, nil
}

// await waits for the end of an instance that was asked to end.
func (s *stage) await(i *instance, limit time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	code, err := i.Wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("%s: %w; its log ends:\n%s", i.name, err, tail(i.Log()))
	}
	return code, nil
}

// kill ends an instance with SIGKILL. What it had not saved may come again.
func (s *stage) kill(i *instance) error {
	i.asked = true
	at := time.Now()
	i.Signal(syscall.SIGKILL)
	if _, err := s.await(i, 10*time.Second); err != nil {
		return err
	}
	c, _ := s.checkpoint() // zero, which allows more, while Postgres is away
	s.reasons = append(s.reasons, interruption{why: "kill", from: at, until: time.Now(), saved: c.saved})
	return nil
}

// stop asks an instance to stop and wants it to do so cleanly: then nothing may
// come again.
func (s *stage) stop(i *instance) error {
	i.asked = true
	begun := time.Now()
	stop(i)
	return s.stopped(i, begun)
}

// stopped waits for the end of an instance that was asked to stop.
func (s *stage) stopped(i *instance, begun time.Time) error {
	code, err := s.await(i, 30*time.Second)
	if err != nil {
		return err
	}
	if code != 0 {
		c, _ := s.checkpoint()
		s.reasons = append(s.reasons, interruption{why: "failed stop", from: begun, until: time.Now(), saved: c.saved})
		return fmt.Errorf("%s: exit %d after SIGTERM; its log ends:\n%s", i.name, code, tail(i.Log()))
	}
	return nil
}

// restart replaces the shard's main instance, which has ended.
func (s *stage) restart(settings ...string) { s.main = s.start(settings...) }

// alive notes instances that ended unasked, and replaces them.
func (s *stage) alive() { s.each(s.mainAlive) }

func (s *stage) mainAlive() {
	select {
	case <-s.main.Exited():
	default:
		return
	}
	if s.main.asked {
		return
	}
	code, _ := s.await(s.main, time.Second)
	s.problem("%s ended by itself with %d; its log ends:\n%s", s.main.name, code, tail(s.main.Log()))
	c, _ := s.checkpoint()
	s.reasons = append(s.reasons, interruption{why: "own end", from: time.Now().Add(-time.Minute), until: time.Now(), saved: c.saved})
	s.restart()
}

// resumes counts the streams that went on inside a transaction, after a cut or
// after a stop.
func (s *stage) resumes() (n int) {
	for _, i := range s.instances {
		n += strings.Count(i.Log(), "resumed=true")
	}
	return n
}

// peakRSS is the largest of all instances.
func (s *stage) peakRSS() (most int64) {
	for _, i := range s.instances {
		most = max(most, i.PeakRSS())
	}
	return most
}

// tail returns the last lines of a log.
func tail(log string) string {
	lines := bytes.Split(bytes.TrimSpace([]byte(log)), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}

// stop asks an instance to stop, and waits for nothing.
func stop(i *instance) { i.Signal(syscall.SIGTERM) }
