package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/internal/history"
	"github.com/walpost/walpost/internal/purge"
	"github.com/walpost/walpost/internal/snapshot"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/circuit"
	sqlfiles "github.com/walpost/walpost/sql"
)

const (
	// logInterval is the least time between two entries of the checkpoint log. There is one
	// only where the checkpoint has moved: an idle database stays so.
	logInterval = 10 * time.Second

	thinInterval     = time.Hour
	windowInterval   = 30 * time.Second
	bookmarkInterval = 30 * time.Second

	// purgeInterval is the least time between two purges, and purgeShare how many times what
	// the last has taken: each goes through the whole table.
	purgeInterval = time.Minute
	purgeShare    = 10

	// upkeepTimeout bounds one piece of upkeep, but for a purge, whose batches have their own bound.
	upkeepTimeout = time.Minute
)

// upkeep is what the service does beside streaming: it looks what the bookmarks keep, keeps
// the checkpoint log and the replay window, and purges. None of it may disturb the stream:
// what fails is logged, and tried again.
type upkeep struct {
	s        *service
	purges   bool      // purges, and does nothing else
	noTables bool      // there are none of walpost's own: it looks at bookmarks only
	conn     *pgx.Conn // nil until needed and after a failure
	looked   time.Time // at the bookmarks
	logged   cdc.LSN
	at       time.Time // of the last entry
	compared bool      // the versions of walpost's objects
	thinned  time.Time
	window   time.Time
	kept     bookmark.Window
	purge    time.Time // not before it
	repeats  circuit.Repeats
}

// run goes on until ctx is done.
func (u *upkeep) run(ctx context.Context) error {
	if cfg := u.s.cfg; u.purges && (cfg.Purge.OlderThan == 0 || cfg.Postgres.Shard.Index != 0) {
		return nil
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	defer u.disconnect()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if u.s.pipeline.Status().State != cdc.Streaming { // a standby leaves it to the owner
			u.disconnect()
			u.forget()
			continue
		}
		err := u.round(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		u.disconnect()
		u.complain(err)
		if errors.Is(err, history.ErrMissing) {
			u.noTables = true // until walpost init was run, and then a start
		}
	}
}

// complain logs what failed, once in a while.
func (u *upkeep) complain(err error) {
	hint := ""
	var refused *cdc.RefusedError
	if errors.As(err, &refused) {
		hint = refused.Hint
	}
	u.repeats.Log(u.s.log, slog.LevelWarn, cdc.OneLine(err), "upkeep failed, and is tried again; the stream goes on", "err", cdc.OneLine(err), "hint", hint)
}

// forget drops what a standby knows of the bookmarks: the owner of the slot has it.
func (u *upkeep) forget() {
	if !u.purges && u.s.pipeline.Status().Standby {
		u.s.bookmarks.Set(nil)
		u.looked = time.Time{}
	}
}

// due reports whether something is, and notes that it is done.
func due(last *time.Time, every time.Duration) bool {
	if time.Since(*last) < every {
		return false
	}
	*last = time.Now()
	return true
}

// round does what is due.
func (u *upkeep) round(ctx context.Context) error {
	if u.purges {
		if u.noTables {
			return nil
		}
		return u.purgeDue(ctx)
	}
	if due(&u.looked, bookmarkInterval) {
		if err := u.do(ctx, u.lookAtBookmarks); err != nil {
			return err
		}
	}
	if u.noTables {
		return nil
	}
	return u.keepTables(ctx)
}

func (u *upkeep) lookAtBookmarks(ctx context.Context, conn *pgx.Conn) error {
	all, err := bookmark.List(ctx, conn, u.s.cfg.Postgres.Slot)
	if err == nil {
		u.s.bookmarks.Set(all)
	}
	return err
}

// keepTables keeps the checkpoint log and the replay window.
func (u *upkeep) keepTables(ctx context.Context) error {
	cfg := u.s.cfg
	if !u.compared {
		if err := u.do(ctx, u.warnOlder); err != nil {
			return err
		}
		u.compared = true
	}
	saved := u.s.pipeline.Status().Checkpoint
	if saved != u.logged && !snapshot.IsPosition(saved) && due(&u.at, logInterval) {
		if err := u.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			_, err := history.Add(ctx, conn, cfg.Postgres.Slot, saved)
			return err
		}); err != nil {
			return err
		}
		u.logged = saved
	}
	if due(&u.thinned, thinInterval) {
		if err := u.do(ctx, func(ctx context.Context, conn *pgx.Conn) error { return history.Thin(ctx, conn, cfg.Postgres.Slot) }); err != nil {
			return err
		}
	}
	if due(&u.window, windowInterval) {
		if err := u.do(ctx, u.keepWindow); err != nil {
			return err
		}
	}
	return nil
}

// warnOlder names what in the database this program would have in another version.
func (u *upkeep) warnOlder(ctx context.Context, conn *pgx.Conn) error {
	versions, err := sqlfiles.Versions(ctx, conn)
	for _, v := range versions {
		if v.Older() {
			u.s.log.Warn("the database is of an earlier version; the stream goes on", "objects", v.Name, "version", v.Made, "want", v.Known, "hint", v.Init)
		}
	}
	return err
}

func (u *upkeep) keepWindow(ctx context.Context, conn *pgx.Conn) error {
	cfg := u.s.cfg
	change, err := u.kept.Keep(ctx, conn, cfg.Postgres.Slot, cfg.Replay.Window, int64(cfg.Replay.MaxBytes))
	if change.Lost != "" {
		u.s.log.Warn("the replay window is lost, and begins anew: what was published before cannot be published again from WAL", "slot", cfg.Postgres.Slot, "reason", change.Lost,
			"hint", lostWindowHint(change.Lost))
	}
	if change.Done {
		u.s.log.Debug("replay window moved", "slot", cfg.Postgres.Slot, "window", cfg.Replay.Window)
		u.looked = time.Time{} // at the bookmarks: it is one
	}
	return err
}

func lostWindowHint(reason string) string {
	if reason == "idle_timeout" {
		return "raise idle_replication_slot_timeout above replay.window, or set it to 0: nothing uses the window's slot for so long"
	}
	return "raise max_slot_wal_keep_size, or lower replay.window or replay.max_bytes"
}

func (u *upkeep) purgeDue(ctx context.Context) error {
	begun := time.Now()
	if begun.Before(u.purge) {
		return nil
	}
	err := u.purgeAll(ctx)
	u.purge = time.Now().Add(max(purgeInterval, purgeShare*time.Since(begun)))
	return err
}

func (u *upkeep) purgeAll(ctx context.Context) error {
	conn, err := u.connect(ctx)
	if err != nil {
		return err
	}
	r, err := purge.Run(ctx, conn, purgeConfig(u.s.cfg))
	if errors.Is(err, purge.ErrYoung) { // as with every service until it is that old
		u.repeats.Log(u.s.log, slog.LevelInfo, "purge", "nothing to purge yet", "reason", cdc.OneLine(err))
		return nil
	}
	for _, t := range r.Tables {
		if t.Left != "" {
			u.repeats.Log(u.s.log, slog.LevelInfo, t.Table, "old partition stays", "partition", t.Table, "reason", t.Left)
		}
	}
	if r.HeldBy != "" {
		u.repeats.Log(u.s.log, slog.LevelInfo, "purge", "purge is held back", "reason", r.HeldBy)
	}
	if r.Deleted > 0 || r.Dropped > 0 {
		u.s.log.Info("purged", "rows", r.Deleted, "dropped_partitions", r.Dropped, "archived", r.Archived, "committed_before", r.Before, "held_by", r.HeldBy)
	}
	return err
}

// do calls f with the connection, for a bounded time.
func (u *upkeep) do(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	conn, err := u.connect(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, upkeepTimeout)
	defer cancel()
	return f(ctx, conn)
}

func (u *upkeep) connect(ctx context.Context) (*pgx.Conn, error) {
	if u.conn == nil || u.conn.IsClosed() {
		conn, err := connect(ctx, u.s.cfg.Postgres.ConnString())
		if err != nil {
			return nil, err
		}
		u.conn = conn
	}
	return u.conn, nil
}

func (u *upkeep) disconnect() {
	if u.conn != nil {
		closeConn(context.Background(), u.conn)
		u.conn = nil
	}
}
