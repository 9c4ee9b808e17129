package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walpost/walpost/internal/table"
	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/cdc/pgsource"
)

const (
	// readers is how many sessions read chunks side by side, and aheadBytes and ahead how far
	// each may be ahead: a batch is of aheadBytes, or of one larger row. All of them hold some
	// 2 MiB.
	readers    = 4
	aheadBytes = 128 << 10
	ahead      = 2
)

// batches are those that have been handed over.
var batches = sync.Pool{New: func() any { return &rows{arena: make([]byte, 0, aheadBytes+aheadBytes/8)} }}

func (r *rows) free() {
	if cap(r.arena) > 2*aheadBytes { // of a large row
		return
	}
	clear(r.values)
	r.values, r.arena = r.values[:0], r.arena[:0]
	batches.Put(r)
}

// rows are some rows of a chunk: the values of one follow those of the one before.
type rows struct {
	values [][]byte
	arena  []byte
}

// add copies a row.
func (r *rows) add(values [][]byte) {
	for _, v := range values {
		if v == nil {
			r.values = append(r.values, nil)
			continue
		}
		at := len(r.arena)
		r.arena = append(r.arena, v...)
		r.values = append(r.values, r.arena[at:len(r.arena):len(r.arena)])
	}
}

// chunkRead is a chunk that is being read. Its rows have all come once the channel is closed.
type chunkRead struct {
	n    int
	part *part
	at   int // in the part
	rows chan *rows
}

// reading reads the chunks from one on, several at once, and returns them in their order. All
// ends with the group, whose error says why if the last chunk has not come.
type reading struct {
	plan      *plan
	relations map[string]*cdc.Relation // by the configured table's name
	snapshot  string                   // that is exported, or empty
	locks     *locks
	connect   func(context.Context) (*pgx.Conn, error)

	queue chan *chunkRead
	work  chan *chunkRead
}

// start begins to read.
func (r *reading) start(ctx context.Context, g *errgroup.Group, first int) {
	r.queue, r.work = make(chan *chunkRead, readers), make(chan *chunkRead)
	total := r.plan.chunks()
	g.Go(func() error {
		defer close(r.queue)
		defer close(r.work)
		for n := first; n < total; n++ {
			c := &chunkRead{n: n, rows: make(chan *rows, ahead)}
			c.part, c.at = r.plan.chunk(n)
			for _, to := range []chan *chunkRead{r.queue, r.work} {
				select {
				case to <- c:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		}
		return nil
	})
	for range min(readers, total-first) {
		g.Go(func() error { return r.run(ctx) })
	}
}

// run reads the chunks that it is given, in a session of its own.
func (r *reading) run(ctx context.Context) error {
	conn, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.PgConn().Close(ctx) }()
	if err := table.Prepare(ctx, conn); err != nil {
		return err
	}
	for c := range r.work {
		if err := r.read(ctx, conn, c); err != nil {
			return err
		}
		close(c.rows)
	}
	return nil
}

func (r *reading) read(ctx context.Context, conn *pgx.Conn, c *chunkRead) error {
	var next uint64
	err := r.locks.wait(ctx, conn, c.part.Table, func() (err error) {
		if err = enter(ctx, conn, r.snapshot); err == nil {
			next, err = c.part.check(ctx, conn, r.plan.Visible, r.locks)
		}
		return err
	})
	if err != nil {
		return err
	}
	rel := r.relations[c.part.Table.Sanitize()]
	columns := len(rel.Columns)
	batch := batches.Get().(*rows)
	send := func() error {
		select {
		case c.rows <- batch:
			batch = batches.Get().(*rows)
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err = table.Read(ctx, conn.PgConn(), c.part.query(rel, c.at), func(values [][]byte) error {
		xid, err := strconv.ParseUint(string(values[columns]), 10, 32)
		if err != nil {
			return fmt.Errorf("parse xmin: %w", err)
		}
		if !r.plan.Visible.sees(uint32(xid), next) {
			return nil
		}
		batch.add(values[:columns])
		if len(batch.arena) < aheadBytes {
			return nil
		}
		return send()
	})
	if err != nil {
		return readError(c.part.Name, err)
	}
	if len(batch.values) > 0 {
		if err := send(); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return readError(c.part.Name, err)
	}
	return nil
}

// check locks the part, refuses one whose rows have moved to another file, and returns the xmax
// of the session's snapshot. Where that is a later one than v, it sees all that v does.
func (p *part) check(ctx context.Context, conn *pgx.Conn, v visible, l *locks) (next uint64, err error) {
	if err := l.lock(ctx, conn, p.from()); err != nil {
		return 0, readError(p.Table, err)
	}
	const query = `WITH RECURSIVE target AS (SELECT oid, relkind FROM pg_class WHERE oid = $1::regclass),` + pgsource.Tree + `
		SELECT pg_current_snapshot()::text, pg_is_in_recovery(),
			array(SELECT coalesce(pg_relation_filenode(oid), 0)::bigint FROM tree WHERE relkind = 'r')`
	var (
		text    string
		standby bool
		files   []int64
	)
	if err := conn.QueryRow(ctx, query, p.Table.Sanitize()).Scan(&text, &standby, &files); err != nil {
		return 0, readError(p.Table, err)
	}
	if standby {
		return 0, errors.New("connected to a standby")
	}
	for _, f := range slices.Concat(p.Files, []uint32{p.File}) {
		if f != 0 && !slices.Contains(files, int64(f)) {
			return 0, cdc.Refuse(anew, "rows of table %s have gone before they were published: it, or a partition, was dropped, detached or rewritten, by VACUUM FULL, CLUSTER, TRUNCATE or ALTER TABLE", p.Table.Sanitize())
		}
	}
	now, err := parseVisible(text)
	if err != nil {
		return 0, err
	}
	if xid, ok := v.lacks(now); ok {
		return 0, fmt.Errorf("transaction %d has committed, and cannot be seen yet: it waits for a standby", xid)
	}
	return now.xmax, nil
}
