package crash

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/walpost/walpost/internal/testenv"
)

// postgresFaults hit the database's server and its sessions.
var postgresFaults = []fault{
	{"Postgres: kill -9", 1, func(ctx context.Context, s *stage, _ *rand.Rand) error {
		if err := s.pg.Kill(ctx); err != nil {
			return err
		}
		return s.pg.Start(ctx)
	}},
	{"Postgres: fast restart", 1, restartPostgres(testenv.Fast)},
	{"Postgres: immediate restart", 1, restartPostgres(testenv.Immediate)},
	{"Postgres: walsender terminated", 8, terminated(walposts + " AND backend_type = 'walsender'")},
	{"Postgres: other sessions terminated", 6, terminated(walposts + " AND backend_type = 'client backend'")},
	{"Postgres: all sessions terminated", 4, terminated("(" + walposts + " OR application_name = '" + writerName + "')")},
}

// walposts are the sessions of all shards.
const walposts = `application_name LIKE '` + slotName + `%'`

// restartPostgres is bounded: a fast shutdown waits for the walsender, and must
// not be held up by walpost.
func restartPostgres(mode testenv.StopMode) func(context.Context, *stage, *rand.Rand) error {
	return func(ctx context.Context, s *stage, _ *rand.Rand) error {
		stopCtx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := s.pg.Stop(stopCtx, mode); err != nil {
			return err
		}
		return s.pg.Start(ctx)
	}
}

// terminated ends the sessions that where selects, up to three times in a row.
func terminated(where string) func(context.Context, *stage, *rand.Rand) error {
	return func(_ context.Context, s *stage, r *rand.Rand) error {
		for range 1 + r.IntN(3) {
			if _, err := s.terminate(where); err != nil {
				return err
			}
			s.over = time.Now()
			<-time.After(between(r, 0, 200*time.Millisecond)) // perhaps it has connected again
		}
		return nil
	}
}
