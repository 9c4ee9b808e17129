package pgsource

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// whileOwned calls f, and meanwhile keeps the session that owns the slot from being
// idle: f may wait for as long as an outage of the sink. It ends f if that session is
// lost.
func (st *Stream) whileOwned(ctx context.Context, f func(context.Context) error) error {
	g, gctx := errgroup.WithContext(ctx)
	fctx, done := context.WithCancel(gctx)
	g.Go(func() error {
		defer done()
		return f(fctx)
	})
	g.Go(func() error { return st.keepOwned(gctx, fctx.Done()) })
	return g.Wait()
}

// hold keeps the session that owns the slot from being idle until Run takes it over with
// release, or Close ends it. In between the pipeline takes over the checkpoint and the
// dead letters, which may take as long as an outage of the sink.
func (st *Stream) hold() {
	ctx, abandon := context.WithCancel(context.Background())
	done, held := make(chan struct{}), make(chan error, 1)
	st.lost = make(chan struct{})
	go func() {
		err := st.keepOwned(ctx, done)
		if err != nil {
			close(st.lost)
		}
		held <- err
	}()
	st.abandon = abandon
	st.release = sync.OnceValue(func() error {
		close(done)
		return <-held
	})
}

// Lost returns a channel that is closed if the session that owns the slot is lost before Run.
func (st *Stream) Lost() <-chan struct{} { return st.lost }

// touchSlot keeps a server from 18 on, which may drop slots that nobody has used for a time, from taking
// the slot for one: it is altered to what it is, which is a use. Nobody reads it while a snapshot is
// published, or an outage of the sink is waited for. The connection for the stream is not used yet.
// https://www.postgresql.org/docs/18/runtime-config-replication.html#GUC-IDLE-REPLICATION-SLOT-TIMEOUT
func (st *Stream) touchSlot(ctx context.Context) error {
	const query = `SELECT coalesce((to_jsonb(s)->>'failover')::bool, false)::text FROM pg_replication_slots s
		JOIN pg_settings g ON g.name = 'idle_replication_slot_timeout' AND g.setting::bigint > 0
		WHERE slot_name = $1 AND NOT active AND (to_jsonb(s)->>'inactive_since')::timestamptz < clock_timestamp() - g.setting::bigint * interval '1 second' / 4`
	var failover string
	err := st.control.QueryRow(ctx, query, st.cfg.Slot).Scan(&failover)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		command := fmt.Sprintf("ALTER_REPLICATION_SLOT %s (FAILOVER %s)", pgx.Identifier{st.cfg.Slot}.Sanitize(), failover)
		_, err = st.repl.Load().conn.Exec(ctx, command).ReadAll()
	}
	if err != nil {
		return fmt.Errorf("use slot %q, or the server would drop it: %w", st.cfg.Slot, err)
	}
	return nil
}

// keepOwned asks the session that owns the slot how that is, three times in the time
// that it may be idle, until done is closed. It returns an error if the session is lost.
// A query that is under way is waited for, unless ctx ends: that costs the session.
func (st *Stream) keepOwned(ctx context.Context, done <-chan struct{}) error {
	ticker := time.NewTicker(st.interval())
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := answered(ctx, func(ctx context.Context) error {
			slot, err := ReadSlot(ctx, st.control, st.cfg.Slot)
			if slot == nil || err != nil {
				return err
			}
			st.src.metrics.observe(slot)
			return st.touchSlot(ctx)
		})
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("session that owns the slot: %w", err)
		}
	}
}
