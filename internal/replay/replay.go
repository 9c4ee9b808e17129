// Package replay publishes again what was published once: it finds the WAL that a replay
// needs, and chooses and marks its records. The stream goes on undisturbed meanwhile.
package replay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/internal/history"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

// Header is the name of the header that a replayed record has, with the replay's id.
const Header = "walpost-replay"

// Options say which events are published again, and how. The zero Options are all of them,
// as they were, as fast as it goes.
type Options struct {
	Key   string `json:"key,omitempty"`   // the record's
	Type  string `json:"type,omitempty"`  // what the column type holds
	Topic string `json:"topic,omitempty"` // that they were published to

	Since time.Time `json:"since,omitzero"` // committed at this time or later
	Until time.Time `json:"until,omitzero"` // committed before it

	Into string  `json:"into,omitempty"` // another topic to publish them to
	Now  bool    `json:"now,omitempty"`  // the record's timestamp is now
	Rate float64 `json:"rate,omitempty"` // events per second; 0: no limit
}

// Plan is a replay that can be run.
type Plan struct {
	ID       string  `json:"replay"`
	Slot     string  `json:"slot"`     // the live one
	Bookmark string  `json:"bookmark"` // the slot that keeps the events
	From     cdc.LSN `json:"from"`
	To       cdc.LSN `json:"to"`
	Options  `json:"options"`
}

// Checkpoint is the name under which the replay's progress is saved.
func (p Plan) Checkpoint() string { return "replay/" + p.ID }

// Resolve makes a plan for the events of a live slot from one point to another. A point is
// an LSN, a time, how long ago it was, as in -90m, or the name of a bookmark. An empty to is
// where the slot is confirmed.
func Resolve(ctx context.Context, conn *pgx.Conn, live, from, to string, opts Options) (Plan, error) {
	p := Plan{ID: newID(), Slot: live, Options: opts}
	slot, err := pgsource.ReadSlot(ctx, conn, live)
	if err != nil {
		return p, err
	}
	if slot == nil {
		return p, pgsource.NoSlot(ctx, conn, live, cdc.Refuse("set postgres.slot", "slot %q does not exist", live))
	}
	kept, err := bookmark.List(ctx, conn, live)
	if err != nil {
		return p, err
	}
	if err := p.resolveTo(ctx, conn, to, slot.ConfirmedFlush, kept); err != nil {
		return p, err
	}
	if err := p.resolveFrom(ctx, conn, from, kept); err != nil {
		return p, err
	}
	if p.From >= p.To {
		return p, cdc.Refuse("give another --from or --to", "there is nothing between %s and %s", p.From, p.To)
	}
	return p, nil
}

func newID() string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return time.Now().UTC().Format("20060102-150405-") + hex.EncodeToString(b[:])
}

// point is where a replay begins or ends: one of the three.
type point struct {
	lsn      cdc.LSN
	time     time.Time
	bookmark *bookmark.Bookmark
}

var layouts = []string{time.RFC3339Nano, "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02"}

func parsePoint(s string, kept []bookmark.Bookmark) (point, error) {
	pt, ok, err := parseMoment(s)
	if ok || err != nil {
		return pt, err
	}
	for i := range kept {
		if kept[i].Name == s {
			return point{bookmark: &kept[i]}, nil
		}
	}
	return point{}, noPoint(s)
}

// parseMoment parses an LSN or a time; ok is false for what can only be a bookmark.
func parseMoment(s string) (pt point, ok bool, err error) {
	if strings.Contains(s, "/") {
		lsn, err := cdc.ParseLSN(s)
		return point{lsn: lsn}, true, err
	}
	if ago, ok := strings.CutPrefix(s, "-"); ok {
		d, err := time.ParseDuration(ago)
		if err != nil {
			return point{}, false, fmt.Errorf("%q is no time ago: want something like -90m or -36h", s)
		}
		return point{time: time.Now().Add(-d)}, true, nil
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			return point{time: t}, true, nil
		}
	}
	return point{}, false, nil
}

func noPoint(s string) error {
	return cdc.Refuse("give an LSN as in 16/B374D848, a time as in 2026-01-31T14:00:00Z (UTC if it has no zone), a time ago as in -90m, or a bookmark of walpost bookmark list",
		"%q is no LSN, no time and no bookmark", s)
}

// CheckPoint judges a point as [Resolve] takes it, as far as that can be done without knowing
// the bookmarks. The error names the flag. An empty point is none.
func CheckPoint(flag, s string) error {
	if s == "" {
		return nil
	}
	_, ok, err := parseMoment(s)
	if err == nil && !ok && !bookmark.IsName(s) {
		err = noPoint(s)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

// toMargin is how far behind a moment the log is read for it: a transaction's time is taken a
// little before its commit record is written.
const toMargin = 10 * time.Second

func (p *Plan) resolveTo(ctx context.Context, conn *pgx.Conn, to string, limit cdc.LSN, kept []bookmark.Bookmark) error {
	p.To = limit
	if to == "" {
		return nil
	}
	pt, err := parsePoint(to, kept)
	if err != nil {
		return fmt.Errorf("--to: %w", err)
	}
	switch {
	case pt.bookmark != nil:
		p.To = pt.bookmark.LSN
	case pt.lsn > 0:
		p.To = pt.lsn
	default:
		p.Until = pt.time
		e, err := history.After(ctx, conn, p.Slot, pt.time.Add(toMargin))
		if err != nil && !errors.Is(err, history.ErrMissing) {
			return err
		}
		if e != nil {
			p.To = min(e.End, limit)
		}
	}
	if p.To > limit {
		return cdc.Refuse("the stream publishes it; leave --to out to go as far as that has come",
			"what was committed from %s on has not been published and confirmed yet, so that nothing up to %s can be published again", limit, p.To)
	}
	return nil
}

func (p *Plan) resolveFrom(ctx context.Context, conn *pgx.Conn, from string, kept []bookmark.Bookmark) error {
	pt, err := parsePoint(from, kept)
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	switch {
	case pt.bookmark != nil && !pt.bookmark.Usable:
		return cdc.Refuse("drop it, and take another", "bookmark %q is lost: %s", pt.bookmark.Name, pt.bookmark.Status)
	case pt.bookmark != nil:
		p.Bookmark, p.From = pt.bookmark.Slot, pt.bookmark.LSN
		return nil
	case pt.lsn > 0:
		p.From = pt.lsn
	default:
		p.Since = pt.time
		e, err := history.At(ctx, conn, p.Slot, pt.time)
		if err != nil && !errors.Is(err, history.ErrMissing) {
			return err
		}
		if e != nil {
			p.From = e.LSN
		}
	}
	if p.Bookmark = p.choose(kept); p.Bookmark == "" {
		return gone(from, kept)
	}
	return nil
}

// choose returns the slot of the bookmark that is nearest before the plan's beginning, and
// moves that to it if it is not known. A bookmark that was set before a time keeps what was
// committed from then on.
func (p *Plan) choose(kept []bookmark.Bookmark) (slot string) {
	var best *bookmark.Bookmark
	for i, b := range kept {
		covers := p.From > 0 && b.LSN <= p.From || !p.Since.IsZero() && b.Since != nil && !b.Since.After(p.Since)
		if b.Usable && covers && (best == nil || b.LSN > best.LSN) {
			best = &kept[i]
		}
	}
	if best == nil {
		return ""
	}
	p.From = max(p.From, best.LSN)
	return best.Slot
}

// gone says what is there in place of what was asked for.
func gone(from string, kept []bookmark.Bookmark) error {
	for _, b := range kept { // the oldest first
		if !b.Usable {
			continue
		}
		since := ""
		if b.Since != nil {
			since = fmt.Sprintf(", set %s", humanize.Time(*b.Since))
		}
		return cdc.Refuse("give a later --from; rows that are still in the table can be published with --source table. replay.window keeps more in future",
			"nothing keeps the WAL from %s on: the oldest position that can be published again is %s (bookmark %q%s)", from, b.LSN, b.Name, since)
	}
	return cdc.Refuse("set replay.window, or run walpost bookmark create: from then on events can be published again. Rows that are still in the table can be published with --source table",
		"nothing keeps the WAL from %s on: there is no bookmark", from)
}

// keepFinished is for how long it is known of a finished replay that it was.
const keepFinished = 30 * 24 * time.Hour

// Save notes the plan, so that it can be resumed, and forgets replays that were finished 30 days
// ago, where the role may.
func (p Plan) Save(ctx context.Context, conn *pgx.Conn) error {
	opts, err := json.Marshal(p.Options)
	if err != nil {
		return err
	}
	const insert = `INSERT INTO walpost.replay (id, slot, bookmark, from_lsn, to_lsn, options) VALUES ($1, $2, $3, $4::text::pg_lsn, $5::text::pg_lsn, $6::text::jsonb)`
	if _, err := conn.Exec(ctx, insert, p.ID, p.Slot, p.Bookmark, p.From.String(), p.To.String(), string(opts)); err != nil {
		return cdc.Refuse("run walpost init, which makes what is missing", "note replay %s in walpost.replay: %w", p.ID, err)
	}
	forgetFinished(ctx, conn)
	return nil
}

// forgetFinished removes old finished replays and how far they were, a thousand at most. Where
// that fails, as for a role that walpost init --role made once without the right, the next
// replay tries again.
func forgetFinished(ctx context.Context, conn *pgx.Conn) {
	const forget = `WITH old AS (DELETE FROM walpost.replay WHERE id IN (
			SELECT id FROM walpost.replay WHERE finished_at < clock_timestamp() - make_interval(secs => $1) LIMIT 1000) RETURNING id)
		DELETE FROM walpost.checkpoint WHERE slot IN (SELECT 'replay/' || id FROM old)`
	_, _ = conn.Exec(ctx, forget, keepFinished.Seconds())
}

// Load returns a plan that was saved.
func Load(ctx context.Context, conn *pgx.Conn, id string) (Plan, error) {
	p := Plan{ID: id}
	var (
		from, to, opts string
		finished       *time.Time
	)
	const query = `SELECT slot, bookmark, from_lsn::text, to_lsn::text, options::text, finished_at FROM walpost.replay WHERE id = $1`
	err := conn.QueryRow(ctx, query, id).Scan(&p.Slot, &p.Bookmark, &from, &to, &opts, &finished)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return p, cdc.Refuse("an interrupted replay prints its id, and table walpost.replay lists all", "replay %q is not known", id)
	case err != nil:
		return p, fmt.Errorf("read walpost.replay: %w", err)
	case finished != nil:
		return p, cdc.Refuse("begin another with --from", "replay %q was finished on %s", id, finished.UTC().Format(time.DateTime))
	}
	if p.From, err = cdc.ParseLSN(from); err == nil {
		p.To, err = cdc.ParseLSN(to)
	}
	return p, errors.Join(err, json.Unmarshal([]byte(opts), &p.Options))
}

// Lock makes the session the only one that runs the plan, for as long as it lasts.
func (p Plan) Lock(ctx context.Context, conn *pgx.Conn) error {
	var locked bool
	if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock(hashtextextended($1, 0))", "walpost "+p.Checkpoint()).Scan(&locked); err != nil {
		return fmt.Errorf("lock replay %s: %w", p.ID, err)
	}
	if !locked {
		return cdc.Refuse("wait for that, or stop it", "replay %s is being run by another process", p.ID)
	}
	return nil
}

// Finish notes that all was published.
func (p Plan) Finish(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, "UPDATE walpost.replay SET finished_at = clock_timestamp() WHERE id = $1", p.ID); err != nil {
		return fmt.Errorf("note the end of replay %s: %w", p.ID, err)
	}
	return nil
}
