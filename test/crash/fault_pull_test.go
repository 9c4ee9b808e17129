package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// pullFaults end walpost at each step of a pull, and where the stream takes over.
var pullFaults = []fault{
	{"pull: ended while the slot is copied", 3, endedInPull(querying("pg_copy_logical_replication_slot"))},
	{"pull: ended while the copy is advanced", 2, endedInPull(querying("pg_replication_slot_advance"))},
	{"pull: ended in a chunk", 4, endedInPull(querying("pg_logical_slot_get_binary_changes"))},
	{"pull: ended where the stream takes over", 4, endedInPull(pulled)},
}

// What walpost says where it begins to pull and where it has ended.
const (
	pullBegins = "pulling a backlog"
	pullEnds   = "backlog pulled"
)

// querying waits for a session of the shard's walpost whose query, which runs or was its last,
// has a text in it.
func querying(text string) func(ctx context.Context, s *stage, conn *pgx.Conn) bool {
	return func(ctx context.Context, s *stage, conn *pgx.Conn) (found bool) {
		err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND position($2 IN query) > 0)", s.slot, text).Scan(&found)
		return err == nil && found
	}
}

func pulled(_ context.Context, s *stage, _ *pgx.Conn) bool {
	return strings.Contains(s.main.Log(), pullEnds)
}

// endedInPull writes more than is streamed while walpost is away, starts it, and ends
// it at the step, by kill -9 or SIGTERM. A step that was too short to be seen is
// missed: it ends when the pull is over.
func endedInPull(step func(context.Context, *stage, *pgx.Conn) bool) func(context.Context, *stage, *rand.Rand) error {
	return func(ctx context.Context, s *stage, r *rand.Rand) error {
		if err := s.kill(s.main); err != nil {
			return err
		}
		if err := s.backlog(1000 + r.IntN(3000)); err != nil {
			return err
		}
		s.restart("WALPOST_POSTGRES_PULL_ABOVE=16KiB")
		conn, err := connect(ctx, s.dsn)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		for deadline := time.Now().Add(10 * time.Second); !step(ctx, s, conn) && !pulled(ctx, s, conn); {
			if time.Now().After(deadline) {
				return fmt.Errorf("no pull in 10 s; the log ends:\n%s", tail(s.main.Log()))
			}
		}
		<-time.After(between(r, 0, 20*time.Millisecond)) // somewhere in it
		return one(r, killed, stopped)(ctx, s, r)
	}
}

// backlog commits so many rows.
func (s *stage) backlog(rows int) error {
	return s.until(maxRecovery, "the writer can write", func() bool {
		return s.probe.write(s.t.Context(), largeRows(rows)) == nil
	})
}

// pullsEnded counts the instances that ended between the beginning of a pull and the
// stream that takes over.
func (s *stage) pullsEnded() (n int) {
	for _, i := range s.instances {
		if strings.Count(i.Log(), pullBegins) > strings.Count(i.Log(), pullEnds) {
			n++
		}
	}
	return n
}
