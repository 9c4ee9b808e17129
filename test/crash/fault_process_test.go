package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/walpost/walpost/test/harness"
)

// processFaults hit walpost itself.
var processFaults = []fault{
	{"kill -9", 12, killed},
	{"kill -9 while starting", 4, killedWhileStarting},
	{"SIGTERM", 12, stopped},
	{"SIGSTOP for a moment", 4, frozen},
	{"kill -9 beside a standby", 3, killedBesideStandby},
	{"SIGTERM beside a standby", 3, stoppedBesideStandby},
	{"SIGSTOP until a standby takes over", 2, replaced(freeze, thaw)},
	{"cut off from Postgres until a standby takes over", 2, replaced(cutOff, func(i *instance) error { return i.pg.Heal() })},
}

func freeze(i *instance) error {
	i.Signal(syscall.SIGSTOP)
	return nil
}

func thaw(i *instance) error {
	i.Signal(syscall.SIGCONT)
	return nil
}

// cutOff swallows all that an instance and Postgres say to each other.
func cutOff(i *instance) error {
	for _, d := range harness.Directions {
		if err := i.pg.Add("timeout", d, map[string]int64{"timeout": 0}); err != nil {
			return err
		}
	}
	return nil
}

func killed(_ context.Context, s *stage, _ *rand.Rand) error {
	s.ended()
	err := s.kill(s.main)
	s.restart()
	return err
}

func killedWhileStarting(ctx context.Context, s *stage, r *rand.Rand) error {
	for range 1 + r.IntN(3) {
		if err := s.kill(s.main); err != nil {
			return err
		}
		s.restart()
		<-time.After(between(r, 0, 500*time.Millisecond)) // somewhere in its start
	}
	return killed(ctx, s, r)
}

func stopped(_ context.Context, s *stage, _ *rand.Rand) error {
	s.ended()
	err := s.stop(s.main)
	s.restart()
	return err
}

func frozen(_ context.Context, s *stage, r *rand.Rand) error {
	if err := freeze(s.main); err != nil {
		return err
	}
	<-time.After(between(r, 50*time.Millisecond, 900*time.Millisecond)) // frozen meanwhile
	return thaw(s.main)
}

func killedBesideStandby(_ context.Context, s *stage, _ *rand.Rand) error {
	next, err := s.standby()
	if err != nil {
		return err
	}
	s.ended()
	err = s.kill(s.main)
	s.main = next
	return err
}

func stoppedBesideStandby(_ context.Context, s *stage, _ *rand.Rand) error {
	next, err := s.standby()
	if err != nil {
		return err
	}
	s.ended()
	err = s.stop(s.main)
	s.main = next
	return err
}

// replaced isolates the owner until the server has ended its sessions and the
// standby owns the slot, then lets it go on: it must find out and stand by.
func replaced(isolate, release func(*instance) error) func(context.Context, *stage, *rand.Rand) error {
	return func(_ context.Context, s *stage, _ *rand.Rand) error { return s.replace(isolate, release) }
}

func (s *stage) replace(isolate, release func(*instance) error) error {
	next, err := s.standby()
	if err != nil {
		return err
	}
	before, err := s.checkpoint()
	if err != nil {
		return err
	}
	old, begun := s.main, time.Now()
	if err := isolate(old); err != nil {
		return err
	}
	err = s.until(4*senderTimeout, "a standby takes over", func() bool {
		now, err := s.checkpoint()
		return err == nil && now.epoch > before.epoch
	})
	if err := errors.Join(err, release(old)); err != nil {
		s.reasons = append(s.reasons, interruption{why: "take-over", from: begun, until: time.Now().Add(senderTimeout), saved: before.saved})
		return errors.Join(fmt.Errorf("%w; its log ends:\n%s", err, tail(next.Log())), s.kill(next))
	}
	s.ended()
	s.main = next
	err = s.stopReplaced(old)
	s.reasons = append(s.reasons, interruption{why: "take-over", from: begun, until: time.Now(), saved: before.saved})
	return err
}

// stopReplaced stops an instance that has lost the slot. It may not have found out
// yet, and then says that it could not save.
func (s *stage) stopReplaced(i *instance) error {
	i.asked = true
	stop(i)
	code, err := s.await(i, 30*time.Second)
	if err == nil && code != 0 && !strings.Contains(i.Log(), "owned by another process") && !strings.Contains(i.Log(), "session that owns the slot") {
		err = fmt.Errorf("%s: exit %d after SIGTERM; its log ends:\n%s", i.name, code, tail(i.Log()))
	}
	return err
}
