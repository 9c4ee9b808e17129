package crash

import (
	"context"
	"crypto/md5" //nolint:gosec // compares bytes; nobody attacks
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/pkg/cdc"
)

// eventType is the column type of all events; it is placed in a header.
const eventType = "Changed"

// writer fills the outbox from several sessions, straight to the server, and
// enters in the ledger what it committed.
type writer struct {
	dsn    string
	ledger *ledger
	split  func(keys []string) []int // returns whose shard's they are
	shared []*key                    // of all sessions, each locked while it is written
	lane   atomic.Int64              // the partition of outbox_parts that takes rows
}

func newWriter(dsn string, l *ledger, split func([]string) []int) *writer {
	w := &writer{dsn: dsn, ledger: l, split: split}
	w.shared = w.keys("shared", 8)
	return w
}

// keys makes n keys.
func (w *writer) keys(name string, n int) []*key {
	names, keys := make([]string, n), make([]*key, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", name, i)
	}
	for i, shard := range w.split(names) {
		keys[i] = &key{name: names[i], route: strconv.Itoa(i % 2), shard: shard}
	}
	return keys
}

// session is one connection that writes. It belongs to one goroutine.
type session struct {
	w     *writer
	n     uint32 // its number
	rng   *rand.Rand
	keys  []*key
	conn  *pgx.Conn // nil while not connected
	count uint64    // rows made, for their ids
	old   []string  // ids that it committed lately, to change and delete
}

// ownKeys is the number of a session's own keys.
const ownKeys = 24

func (w *writer) session(n uint32, rng *rand.Rand) *session {
	return &session{w: w, n: n, rng: rng, keys: w.keys(fmt.Sprintf("own-%d", n), ownKeys)}
}

// connect returns the connection, a new one if need be.
func (s *session) connect(ctx context.Context) (*pgx.Conn, error) {
	if s.conn != nil && !s.conn.IsClosed() {
		return s.conn, nil
	}
	cfg, err := pgx.ParseConfig(s.w.dsn)
	if err != nil {
		return nil, err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // statements outlive changes of the table
	cfg.RuntimeParams["application_name"] = writerName
	s.conn, err = pgx.ConnectConfig(ctx, cfg)
	return s.conn, err
}

// writerName tells the writer's sessions from walpost's in pg_stat_activity.
const writerName = "writer"

func (s *session) close() {
	if s.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.conn.Close(ctx)
	}
}

// txn is a transaction being written.
type txn struct {
	*session
	conn *pgx.Conn
	tx   *transaction
	ids  []uuid.UUID
	undo map[*key]int64 // numbers to take back if it does not commit
}

// errRollback makes write roll back what was written.
var errRollback = errors.New("roll back")

// write runs fn in a transaction. It returns nil when the transaction has
// committed, and only after its fate is known for certain.
func (s *session) write(ctx context.Context, fn func(ctx context.Context, t *txn) error) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "BEGIN"); err != nil {
		return s.broken(err)
	}
	t := &txn{session: s, conn: conn, tx: &transaction{}, undo: map[*key]int64{}}
	var xid, before string
	err = fn(ctx, t)
	if err == nil {
		err = conn.QueryRow(ctx, "INSERT INTO written VALUES ($1) RETURNING pg_current_xact_id()::text, pg_current_wal_insert_lsn()::text", t.name()).
			Scan(&xid, &before)
	}
	if err != nil {
		t.takeBack()
		_, _ = conn.Exec(ctx, "ROLLBACK") // or the session's end does it
		return s.broken(err)
	}
	if t.tx.before, err = cdc.ParseLSN(before); err != nil {
		return err
	}
	return t.commit(ctx, xid)
}

// broken drops a connection on which the server has not merely refused
// something, and returns err.
func (s *session) broken(err error) error {
	if s.conn != nil && s.conn.PgConn().TxStatus() != 'I' {
		s.close()
	}
	return err
}

// commit commits and settles the ledger. Whether a COMMIT that was not answered
// took effect is asked of the server.
func (t *txn) commit(ctx context.Context, xid string) error {
	parts := map[int]*part{}
	for _, ev := range t.tx.events {
		if parts[ev.key.shard] == nil {
			parts[ev.key.shard] = &part{}
		}
		ev.part = parts[ev.key.shard]
		ev.part.left++
	}
	t.w.ledger.expect(t.ids, t.tx.events)
	committed := true
	var after string
	_, err := t.conn.Exec(ctx, "COMMIT")
	if err == nil {
		err = t.conn.QueryRow(ctx, "SELECT pg_current_wal_lsn()::text").Scan(&after)
	}
	if err != nil {
		_ = t.broken(err)
		if committed, after, err = t.outcome(context.WithoutCancel(ctx), xid); err != nil {
			return fmt.Errorf("find out about transaction %s: %w", xid, err)
		}
	}
	if !committed {
		t.w.ledger.abort(t.ids)
		t.takeBack()
		return errRollback
	}
	lsn, err := cdc.ParseLSN(after)
	if err != nil {
		return err
	}
	t.w.ledger.commit(t.ids, t.tx, lsn)
	for _, id := range t.ids[:min(len(t.ids), 20)] {
		t.old = append(t.old, id.String())
	}
	return nil
}

// takeBack gives the numbers of the session's own keys back. Those of the shared
// ones may be others' by now, and leave a gap.
func (t *txn) takeBack() {
	for k, next := range t.undo {
		k.next = next
	}
}

// name is what the transaction writes into the table written.
func (t *txn) name() string { return t.ids[0].String() }

// outcome finds out whether the transaction has left its row in the table written,
// once its server process, which may still be committing, is done. The status of
// its number alone does not say it: after a crash the number may be another's.
func (t *txn) outcome(ctx context.Context, xid string) (committed bool, after string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		var status string
		conn, err := t.connect(ctx)
		if err == nil {
			err = conn.QueryRow(ctx, "SELECT pg_xact_status($1::text::xid8)", xid).Scan(&status)
			_ = t.broken(err)
		}
		if err == nil && status != "in progress" {
			err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM written WHERE name = $1), pg_current_wal_lsn()::text", t.name()).Scan(&committed, &after)
			if t.broken(err) == nil {
				return committed, after, nil
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false, "", errors.Join(context.Cause(ctx), err)
		}
	}
}

// lock takes a shared key until the end of the transaction.
func (t *txn) lock(ctx context.Context, k *key) error {
	_, err := t.conn.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext($1))", k.name)
	return err
}

// row is one row of the outbox.
type row struct {
	id, route, key string
	payload        *string
	seq            int64
}

// rows makes n events of the keys that pick gives.
func (t *txn) rows(n int, pick func() *key) []row {
	rows := make([]row, n)
	for i := range rows {
		k := pick()
		if _, ok := t.undo[k]; !ok && !t.isShared(k) {
			t.undo[k] = k.next
		}
		k.next++
		id := t.newID()
		rows[i] = row{id: id.String(), route: k.route, key: k.name, payload: t.payload(id), seq: k.next}
		ev := &event{tx: t.tx, key: k, seq: k.next, null: rows[i].payload == nil}
		if !ev.null {
			ev.sum = md5.Sum([]byte(*rows[i].payload)) //nolint:gosec // see above
		}
		t.ids = append(t.ids, id)
		t.tx.events = append(t.tx.events, ev)
	}
	return rows
}

// ghosts makes n rows that must not be committed.
func (t *txn) ghosts(n int) []row {
	rows := make([]row, n)
	for i := range rows {
		id := t.newID()
		rows[i] = row{id: id.String(), route: "0", key: t.own().name, payload: t.payload(id), seq: -1}
	}
	return rows
}

func (t *txn) isShared(k *key) bool {
	for _, s := range t.w.shared {
		if s == k {
			return true
		}
	}
	return false
}

func (s *session) own() *key { return s.keys[s.rng.IntN(len(s.keys))] }

// ownOf is one of a shard's, which must have some.
func (s *session) ownOf(shard int) *key {
	for {
		if k := s.own(); k.shard == shard {
			return k
		}
	}
}

// newID counts, so that the same run makes the same ids.
func (s *session) newID() (id uuid.UUID) {
	s.count++
	binary.BigEndian.PutUint32(id[:4], s.n)
	binary.BigEndian.PutUint64(id[8:], s.count)
	id[6], id[8] = 0x40, id[8]&0x3f|0x80
	return id
}

// text is what payloads are cut from.
var text = func() string {
	rng := rand.New(rand.NewPCG(1, 2))
	letters := []rune(`abcdefghijklmnopqrstuvwxyz0123456789 "\{}[]:,äöü€😀` + "\t\n")
	all := make([]rune, 64<<10)
	for i := range all {
		all[i] = letters[rng.IntN(len(letters))]
	}
	return string(all)
}()

// payload is unlike all others, mostly some hundred bytes, now and then NULL,
// empty or too large for its page.
func (s *session) payload(id uuid.UUID) *string {
	n := 20 + s.rng.IntN(300)
	switch s.rng.IntN(200) {
	case 0:
		return nil
	case 1:
		return new(string)
	case 2:
		n = 3000 + s.rng.IntN(30_000)
	}
	from := s.rng.IntN(len(text) - n)
	p := id.String() + " " + strings.ToValidUTF8(text[from:from+n], "?") // the cut may fall into a character
	return &p
}
