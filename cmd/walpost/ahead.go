package main

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/partition"
	"github.com/walpost/walpost/pkg/cdc"
)

const (
	// aheadInterval is the time between two looks at the partitions to come, the shortest of
	// which is a day long, and aheadRetry that after one that has failed.
	aheadInterval = time.Hour
	aheadRetry    = time.Minute
)

// ahead makes the partitions to come of those outbox tables whose partitions are walpost's
// affair, also while Kafka is away, and as a standby: to make them twice is not possible. What
// fails is logged and tried again: seven periods are made ahead, and the stream goes on
// whatever becomes of them.
type ahead struct {
	s   *service
	due time.Time
}

// run goes on until ctx is done.
func (a *ahead) run(ctx context.Context) error {
	if a.s.cfg.Postgres.Shard.Index != 0 {
		return nil
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if time.Now().Before(a.due) {
			continue
		}
		a.due = time.Now().Add(aheadInterval)
		if err := a.round(ctx); err != nil && ctx.Err() == nil {
			a.due = time.Now().Add(aheadRetry)
			hint := ""
			var refused *cdc.RefusedError
			if errors.As(err, &refused) {
				hint = refused.Hint
			}
			a.s.log.Warn("partitions ahead are not made, which is tried again; inserts fail once there is none", "err", cdc.OneLine(err), "hint", hint)
		}
	}
}

// round makes what is missing.
func (a *ahead) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	conn, err := connect(ctx, a.s.cfg.Postgres.ConnString())
	if err != nil {
		a.due = time.Now().Add(aheadRetry)
		a.s.log.Debug("no connection to make partitions with", "err", err) // the stream has none either, and says so
		return nil
	}
	defer closeConn(ctx, conn)
	var failed error
	for _, table := range a.s.cfg.Outbox.Tables {
		failed = errors.Join(failed, a.make(ctx, conn, pgx.Identifier{table.Schema, table.Name}))
	}
	return failed
}

func (a *ahead) make(ctx context.Context, conn *pgx.Conn, name pgx.Identifier) error {
	t, err := partition.Find(ctx, conn, name)
	if err != nil || t == nil {
		return err
	}
	made, err := t.Make(ctx, conn)
	if len(made) > 0 {
		a.s.log.Info("partitions made", "table", name.Sanitize(), "partitions", made)
	}
	return err
}
