package inspect

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/bookmark"
	"github.com/walpost/walpost/internal/snapshot"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
	sqlfiles "github.com/walpost/walpost/sql"
)

// Postgres is what the checks of a database are about.
type Postgres struct {
	Conn *pgx.Conn
	Slot string

	// Outbox are the outbox tables, each of a schema and a name.
	Outbox []pgx.Identifier

	// Source judges the server and the publication.
	Source *pgsource.Source

	// Saved is the checkpoint, or why it could not be read; both nil if there is none.
	Saved    *cdc.Checkpoint
	SavedErr error

	// Snapshot says that walpost run makes the slot.
	Snapshot bool

	// OwnTables says that the checkpoint is kept in the database.
	OwnTables bool
}

// Check looks at everything.
func (p *Postgres) Check(ctx context.Context) []Check {
	return makeAll(ctx, []look{
		{"connection", p.connection},
		{"clock", p.clock},
		{"server and publication", p.source},
		{"role", p.role},
		{"free slots", p.room},
		{"slot", p.slot},
		{"WAL head-room", p.headRoom},
		{"checkpoint", p.checkpoint},
		{"tables of walpost", p.tables},
		{"partitions", p.partitions},
		{"old transactions", p.oldTransactions},
		{"commit", p.commit},
		{"bookmarks", p.bookmarks},
		{"idle slots", p.idleTimeout},
		{"standbys", p.standbys},
	})
}

func (p *Postgres) text(ctx context.Context, query string, args ...any) (s string, err error) {
	err = p.Conn.QueryRow(ctx, query, args...).Scan(&s)
	return s, err
}

// connection sees whether something stands between: a pooler takes no replication, and may
// give each transaction to another session, which an advisory lock does not survive.
func (p *Postgres) connection(ctx context.Context) (*Check, error) {
	const query = "SELECT coalesce(inet_client_port()::text, '') || ' ' || current_setting('server_version')"
	row, err := p.text(ctx, query)
	if err != nil {
		return nil, err
	}
	port, version, _ := strings.Cut(row, " ")
	local, isTCP := p.Conn.PgConn().Conn().LocalAddr().(*net.TCPAddr)
	if isTCP && port != strconv.Itoa(local.Port) {
		return warn("point postgres.dsn at Postgres itself, and not at a pooler: replication and the lock on the slot need a session of their own",
			"the server sees another connection than the one that was made: a pooler or proxy stands in between (Postgres %s)", version)
	}
	return ok("Postgres %s, %s", version, p.Conn.PgConn().Conn().RemoteAddr())
}

// maxSkew is how far the clocks may be apart: lag is told by both.
const maxSkew = time.Second

func (p *Postgres) clock(ctx context.Context) (*Check, error) {
	begun := time.Now()
	var server time.Time
	if err := p.Conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&server); err != nil {
		return nil, err
	}
	return judgeClock(server, begun, time.Since(begun))
}

// judgeClock compares what the server's clock said at some time in took from begun on.
func judgeClock(server, begun time.Time, took time.Duration) (*Check, error) {
	skew := server.Sub(begun.Add(took / 2)).Abs()
	if skew > maxSkew+took {
		return warn("run an NTP client on both machines", "the server's clock is %s from this machine's: lag in seconds is wrong by as much", skew.Round(time.Millisecond))
	}
	return ok("within %s of this machine's", (skew + took).Round(time.Millisecond))
}

func (p *Postgres) source(ctx context.Context) (*Check, error) {
	if err := p.Source.Check(ctx); err != nil {
		return nil, err
	}
	return ok("wal_level is logical, and inserts of the outbox are published")
}

func (p *Postgres) role(ctx context.Context) (*Check, error) {
	const query = `SELECT (rolreplication OR rolsuper OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname IN ('rds_replication', 'azure_pg_admin', 'cloudsqlsuperuser') AND pg_has_role(r.oid, g.oid, 'member')))::text || ' ' || rolname
		FROM pg_roles r WHERE rolname = current_user`
	row, err := p.text(ctx, query)
	if err != nil {
		return nil, err
	}
	may, name, _ := strings.Cut(row, " ")
	if may != "true" {
		return fail("ALTER ROLE "+pgx.Identifier{name}.Sanitize()+" REPLICATION, or what your provider has in its place", "role %q may not read a slot", name)
	}
	return ok("%q may read slots", name)
}

// room sees whether a pull, a bookmark and a standby find what they need.
func (p *Postgres) room(ctx context.Context) (*Check, error) {
	const query = `SELECT current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots),
		current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication)`
	var slots, senders int
	if err := p.Conn.QueryRow(ctx, query).Scan(&slots, &senders); err != nil {
		return nil, err
	}
	switch {
	case senders < 1:
		return warn("raise max_wal_senders", "no walsender is free: a stream that breaks may not find one")
	case slots < 1:
		return warn("raise max_replication_slots, or drop a slot that nothing needs", "no slot is free: a backlog is streamed, several times slower than it could be pulled, and no bookmark can be made")
	}
	return ok("%d slots and %d walsenders are free", slots, senders)
}

// missingSlotHint is the way out for a slot that does not exist: whether one is lost only a start tells,
// which has read the checkpoint.
const missingSlotHint = "run walpost init before a first start; of one that is gone walpost run says, in place of starting, what is lost and what to do"

func (p *Postgres) slot(ctx context.Context) (*Check, error) {
	s, err := pgsource.ReadSlot(ctx, p.Conn, p.Slot)
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		if p.Snapshot {
			return warn("start walpost run, which makes it with the snapshot", "slot %q does not exist yet", p.Slot)
		}
		return nil, pgsource.NoSlot(ctx, p.Conn, p.Slot, cdc.Refuse(missingSlotHint, "slot %q does not exist", p.Slot))
	}
	if err := pgsource.CheckSlot(p.Slot, s); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("%q is confirmed up to %s and keeps %s", p.Slot, s.ConfirmedFlush, humanize.IBytes(uint64(s.Retained)))
	switch {
	case s.WALStatus == "unreserved":
		return fail("let walpost catch up at once, or raise max_slot_wal_keep_size", "%s: the server may remove it at the next checkpoint", text)
	case s.WALStatus == "extended":
		return warn("see that walpost run is up and catches up", "%s, more than max_wal_size", text)
	case !s.Active:
		return warn("start walpost run, unless it pulls a backlog or publishes a snapshot at this moment", "%s, and nobody streams from it", text)
	}
	return ok("%s", text)
}

// headRoom looks at what bounds the disk that slots take.
func (p *Postgres) headRoom(ctx context.Context) (*Check, error) {
	keep, err := p.keepSize(ctx)
	if err != nil {
		return nil, err
	}
	if keep < 0 {
		return warn("ALTER SYSTEM SET max_slot_wal_keep_size = '50GB', or what the disk allows, and SELECT pg_reload_conf()", "max_slot_wal_keep_size sets no limit: a slot that nobody reads fills the disk")
	}
	s, err := pgsource.ReadSlot(ctx, p.Conn, p.Slot)
	if err != nil || s == nil {
		return nil, err
	}
	if free := localDisk(ctx, p.Conn); free != nil && keep-s.Retained > *free {
		return warn("lower max_slot_wal_keep_size, or make room", "the slot may keep %s more, and the disk has %s free", humanize.IBytes(uint64(keep-s.Retained)), humanize.IBytes(uint64(*free)))
	}
	if s.Retained > keep/2 {
		return warn("let walpost catch up, or raise max_slot_wal_keep_size", "the slot keeps %s of %s that it may", humanize.IBytes(uint64(s.Retained)), humanize.IBytes(uint64(keep)))
	}
	return ok("the slot keeps %s of %s that it may", humanize.IBytes(uint64(max(0, s.Retained))), humanize.IBytes(uint64(keep)))
}

// keepSize is max_slot_wal_keep_size in bytes; negative means that there is no limit.
func (p *Postgres) keepSize(ctx context.Context) (keep int64, err error) {
	const query = `SELECT CASE WHEN setting::bigint < 0 THEN -1 ELSE setting::bigint * 1048576 END FROM pg_settings WHERE name = 'max_slot_wal_keep_size'`
	err = p.Conn.QueryRow(ctx, query).Scan(&keep)
	return keep, err
}

func (p *Postgres) checkpoint(ctx context.Context) (*Check, error) {
	switch {
	case p.SavedErr != nil:
		return nil, p.SavedErr
	case p.Saved == nil:
		return ok("none yet: walpost run has not been started")
	}
	server, err := pgsource.Identify(ctx, p.Conn)
	if err != nil {
		return nil, err
	}
	s, err := pgsource.ReadSlot(ctx, p.Conn, p.Slot)
	if err != nil || s == nil {
		return nil, err
	}
	at := p.Saved.LSN
	switch {
	case p.Saved.SystemID != 0 && p.Saved.SystemID != server.SystemID:
		return fail("check postgres.dsn; if this is a new cluster, "+cdc.StartAnew, "it is of another cluster: its system identifier is %d, the server's %d", p.Saved.SystemID, server.SystemID)
	case at > server.LSN:
		return fail("the server has lost WAL, or was restored: find out which, then "+cdc.StartAnew, "it stands at %s, beyond the end of WAL, %s", at, server.LSN)
	case snapshot.IsPosition(at):
	case s.ConfirmedFlush > at && p.Saved.Timeline == server.Timeline:
		return fail("something else has read or advanced the slot: "+cdc.StartAnew+"; walpost replay --source table then publishes what is between", "the slot is confirmed up to %s, beyond the saved position %s", s.ConfirmedFlush, at)
	}
	return ok("%s, saved %s", snapshot.Text(at), humanize.Time(p.Saved.SavedAt))
}

func (p *Postgres) tables(ctx context.Context) (*Check, error) {
	versions, err := sqlfiles.Versions(ctx, p.Conn)
	if err != nil {
		return nil, err
	}
	for _, v := range versions {
		if v.Older() {
			return warn(v.Init, "%s", v)
		}
	}
	if !p.OwnTables {
		return nil, nil
	}
	const query = `SELECT coalesce(string_agg(t, ', '), '') FROM unnest(ARRAY['walpost.checkpoint', 'walpost.checkpoint_log', 'walpost.replay', 'walpost.snapshot']) t WHERE to_regclass(t) IS NULL`
	missing, err := p.text(ctx, query)
	if err != nil {
		return nil, err
	}
	if missing != "" {
		return warn("run walpost init, and then restart walpost run", "missing: %s", missing)
	}
	return ok("all there")
}

// oldAge is from when on a transaction is old.
const oldAge = 5 * time.Minute

func (p *Postgres) oldTransactions(ctx context.Context) (*Check, error) {
	return p.transactionsOlderThan(ctx, oldAge)
}

func (p *Postgres) transactionsOlderThan(ctx context.Context, age time.Duration) (*Check, error) {
	const query = `SELECT format('pid %s, role %s, application %L, %s, begun %s ago', pid, usename, application_name, state, date_trunc('second', now() - xact_start))
		FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database() AND xact_start < now() - make_interval(secs => $1) ORDER BY xact_start LIMIT 1`
	rows, err := p.Conn.Query(ctx, query, age.Seconds())
	if err != nil {
		return nil, err
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	if len(found) > 0 {
		return warn("end it, or wait: until then the slot keeps all WAL from its beginning on, and no slot can be made", "a transaction is open that has written: %s", found[0])
	}
	return ok("none that has written is older than %s", age)
}

func (p *Postgres) commit(ctx context.Context) (*Check, error) {
	level, err := p.text(ctx, "SELECT current_setting('synchronous_commit')")
	if err != nil {
		return nil, err
	}
	if level == "off" {
		return warn("leave synchronous_commit on, at least for who writes events", "synchronous_commit is off: an event may wait 200 ms until it is in WAL")
	}
	named, setting, err := pgsource.Synchronous(ctx, p.Conn)
	if err != nil {
		return nil, err
	}
	if named {
		return warn(pgsource.NameStandbys, "synchronous_standby_names is %q, so that walpost may be taken for a synchronous standby: commits then wait for Kafka, and may wait without end", setting)
	}
	return ok("synchronous_commit is %s", level)
}

// idleTimeout is for 18 and later, which can drop slots that nobody uses, as bookmarks are.
func (p *Postgres) idleTimeout(ctx context.Context) (*Check, error) {
	const query = `SELECT coalesce((SELECT setting::bigint FROM pg_settings WHERE name = 'idle_replication_slot_timeout'), 0)`
	var seconds int64
	if err := p.Conn.QueryRow(ctx, query).Scan(&seconds); err != nil || seconds == 0 {
		return nil, err
	}
	limit := time.Duration(seconds) * time.Second
	all, err := bookmark.List(ctx, p.Conn, p.Slot)
	if err != nil {
		return nil, err
	}
	for _, b := range all {
		if b.Since != nil && time.Since(*b.Since) > limit/2 {
			hint := "advance or drop it in time, or raise idle_replication_slot_timeout"
			if b.Name == bookmark.WindowName {
				hint = "raise idle_replication_slot_timeout above replay.window, or set it to 0"
			}
			return warn(hint, "bookmark %q was set %s, and the server drops a slot that nobody has used for %s", b.Name, humanize.Time(*b.Since), limit)
		}
	}
	return ok("the server drops a slot that nobody has used for %s", limit)
}

// standbys is for 17 and later: a failover slot that runs ahead of the standbys loses events
// at a failover.
func (p *Postgres) standbys(ctx context.Context) (*Check, error) {
	const query = `SELECT coalesce(current_setting('synchronized_standby_slots', true), 'none of this version'),
		(SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical'),
		coalesce((SELECT to_jsonb(s)->>'failover' FROM pg_replication_slots s WHERE slot_name = $1), 'false')`
	var guard, failover string
	var physical int
	if err := p.Conn.QueryRow(ctx, query, p.Slot).Scan(&guard, &physical, &failover); err != nil {
		return nil, err
	}
	switch {
	case physical == 0:
		return nil, nil
	case guard == "none of this version":
		return warn("upgrade to 17 for failover slots, or be ready to publish from the table after a failover", "there is a standby, and this version cannot keep the slot there")
	case failover != "true":
		return warn("drop and create the slot with postgres.failover on", "there is a standby, and slot %q is no failover slot: it is gone after a failover", p.Slot)
	case guard == "":
		return warn("set synchronized_standby_slots to the standbys' slots", "there is a standby, and synchronized_standby_slots is empty: events may be published that are lost in a failover")
	}
	return ok("the slot is kept on standbys, and waits for %s", cmp.Or(guard, "none"))
}
