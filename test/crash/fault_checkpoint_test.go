package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// checkpointFaults hit the table that holds the position.
var checkpointFaults = []fault{
	{"checkpoint: table locked", 3, func(ctx context.Context, s *stage, r *rand.Rand) error {
		return s.locked(ctx, between(r, 100*time.Millisecond, 1500*time.Millisecond))
	}},
	{"checkpoint: table locked past the timeouts", 1, func(ctx context.Context, s *stage, r *rand.Rand) error {
		return s.locked(ctx, between(r, 3500*time.Millisecond, 5500*time.Millisecond))
	}},
	{"checkpoint: save fails before the write", 3, hooked("BEFORE UPDATE", "", "RAISE 'the save fails'")},
	{"checkpoint: save fails at the commit", 3, hooked("AFTER UPDATE", "DEFERRABLE INITIALLY DEFERRED", "RAISE 'the commit fails'")},
	{"checkpoint: saved but reported as failed", 4, savedButCut},
	{"checkpoint: walpost killed in the commit of a save", 3, killedInSave},
}

// locked keeps everybody from the table for a while.
func (s *stage) locked(ctx context.Context, d time.Duration) error {
	conn, err := connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE walpost.checkpoint IN "+map[bool]string{true: "EXCLUSIVE", false: "ACCESS EXCLUSIVE"}[d < time.Second]+" MODE"); err != nil {
		return err
	}
	<-time.After(d) // locked meanwhile
	return tx.Commit(ctx)
}

// hook puts a trigger on the table, whose body is run at each save.
func (s *stage) hook(when, deferrable, body string) error {
	kind := ""
	if deferrable != "" {
		kind = "CONSTRAINT"
	}
	return s.sql(
		fmt.Sprintf("CREATE OR REPLACE FUNCTION hook() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN %s; RETURN NEW; END $$", body),
		fmt.Sprintf("CREATE %s TRIGGER hook %s ON walpost.checkpoint %s FOR EACH ROW EXECUTE FUNCTION hook()", kind, when, deferrable))
}

func (s *stage) unhook() error { return s.sql("DROP TRIGGER IF EXISTS hook ON walpost.checkpoint") }

// hooked makes every save fail for a while.
func hooked(when, deferrable, body string) func(context.Context, *stage, *rand.Rand) error {
	return func(_ context.Context, s *stage, r *rand.Rand) error {
		if err := s.hook(when, deferrable, body); err != nil {
			return err
		}
		<-time.After(between(r, 100*time.Millisecond, 2*time.Second)) // saves fail meanwhile
		return s.unhook()
	}
}

// slowCommits makes the commit of each save take a while on the server, and waits
// until one of the shard's is in it.
func (s *stage) slowCommits(ctx context.Context) error {
	if err := s.hook("AFTER UPDATE", "DEFERRABLE INITIALLY DEFERRED", "PERFORM pg_sleep(0.4)"); err != nil {
		return err
	}
	conn, err := connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_ = s.until(4*time.Second, "a save", func() bool {
		var n int
		err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event = 'PgSleep'", s.slot).Scan(&n)
		return err == nil && n > 0
	}) // if there is none, nothing is saved, and the fault is an ordinary cut
	return nil
}

// savedButCut cuts the connections while the server commits a save: it is stored,
// and walpost is told nothing.
func savedButCut(ctx context.Context, s *stage, _ *rand.Rand) error {
	if err := s.slowCommits(ctx); err != nil {
		return err
	}
	if err := s.main.pg.Cut(); err != nil {
		return err
	}
	return s.unhook()
}

func killedInSave(ctx context.Context, s *stage, r *rand.Rand) error {
	if err := s.slowCommits(ctx); err != nil {
		return err
	}
	if err := killed(ctx, s, r); err != nil {
		return err
	}
	return s.unhook()
}
