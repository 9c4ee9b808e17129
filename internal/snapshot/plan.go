package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/table"
	"github.com/walpost/walpost/pkg/cdc"
)

const (
	// chunkBlocks is how many blocks of a table a chunk is: some thousand rows. Of a table
	// with more than maxChunks of them a chunk is larger.
	chunkBlocks = 256
	maxChunks   = 100_000

	// chunkRows is the size of a chunk in the order of a column.
	chunkRows = 5000
)

// plan says which rows are published, and in which chunks. It is saved, so that a later process
// goes on with the next chunk.
type plan struct {
	LSN     cdc.LSN   // where the slot begins: what is published here was committed before it
	Begun   time.Time // what is taken for the commit time of the rows
	Visible visible   // which rows they are
	Parts   []part

	Planned  bool // with Visible and Parts
	Finished bool // and published, or given up before it was planned
}

// part is a table or a partition of one, or a whole table that is read in the order of a column.
type part struct {
	Table  pgx.Identifier `json:"table"` // the one that is configured, whose name the rows have
	Name   pgx.Identifier `json:"name"`
	OID    uint32         `json:"oid"`
	File   uint32         `json:"file"`             // its file node: another one is another file
	Filter string         `json:"filter,omitempty"` // the publication's

	// Constraint is what the rows of a partition fulfil. Partitions are read through their
	// table, which is what the role may read.
	Constraint string `json:"constraint,omitempty"`

	Blocks int64 `json:"blocks"`
	Each   int64 `json:"each"` // blocks of a chunk

	OrderBy string   `json:"order_by,omitempty"`
	Bounds  []string `json:"bounds,omitempty"` // between the chunks
	Files   []uint32 `json:"files,omitempty"`  // file nodes of all that is read
}

// chunks returns their number. Ordered, rows without a value come first.
func (p *part) chunks() int {
	if p.OrderBy != "" {
		return len(p.Bounds) + 2
	}
	return int((p.Blocks + p.Each - 1) / p.Each)
}

// where is the condition for the rows of a chunk, and order their order, which is the same each
// time.
func (p *part) where(i int) (where, order string) {
	where, order = p.blocks(i), "ctid"
	if p.OrderBy != "" {
		where, order = p.between(i), pgx.Identifier{p.OrderBy}.Sanitize()+", tableoid, ctid"
	}
	if p.Constraint != "" {
		where += fmt.Sprintf(" AND tableoid = %d AND (%s)", p.OID, p.Constraint)
	}
	if p.Filter != "" {
		where += " AND (" + p.Filter + ")"
	}
	return where, order
}

func (p *part) blocks(i int) string {
	from := int64(i) * p.Each
	return fmt.Sprintf("ctid >= '(%d,0)'::tid AND ctid < '(%d,0)'::tid", from, min(from+p.Each, p.Blocks))
}

func (p *part) between(i int) string {
	column := pgx.Identifier{p.OrderBy}.Sanitize()
	switch {
	case i == 0:
		return column + " IS NULL"
	case len(p.Bounds) == 0:
		return column + " IS NOT NULL"
	case i == 1:
		return column + " < " + quote(p.Bounds[0])
	case i == len(p.Bounds)+1:
		return column + " >= " + quote(p.Bounds[i-2])
	}
	return column + " >= " + quote(p.Bounds[i-2]) + " AND " + column + " < " + quote(p.Bounds[i-1])
}

// query selects the rows of a chunk, and the transaction that has written each.
func (p *part) query(rel *cdc.Relation, i int) string {
	where, order := p.where(i)
	return fmt.Sprintf("SELECT %s, xmin FROM %s WHERE %s ORDER BY %s", table.Columns(rel), p.from(), where, order)
}

// from is what the rows are read from: a table that has no partitions may have heirs, whose rows
// are others.
func (p *part) from() string {
	if p.OrderBy != "" || p.Constraint != "" {
		return p.Table.Sanitize()
	}
	return "ONLY " + p.Name.Sanitize()
}

// chunks returns the number of all.
func (p *plan) chunks() (n int) {
	for i := range p.Parts {
		n += p.Parts[i].chunks()
	}
	return n
}

// chunk returns the part of a chunk, and its place there.
func (p *plan) chunk(n int) (*part, int) {
	for i := range p.Parts {
		if c := p.Parts[i].chunks(); n >= c {
			n -= c
			continue
		}
		return &p.Parts[i], n
	}
	return nil, 0
}

// begin notes that a slot with a snapshot is about to be made. Until the plan is saved, a slot
// of that name is one that was not finished.
func begin(ctx context.Context, conn *pgx.Conn, slot string) error {
	const upsert = `INSERT INTO walpost.snapshot (slot) VALUES ($1)
		ON CONFLICT (slot) DO UPDATE SET begun_at = clock_timestamp(), lsn = NULL, visible = NULL, parts = NULL, finished_at = NULL`
	if _, err := conn.Exec(ctx, upsert, slot); err != nil {
		return tableError(err)
	}
	return nil
}

// noteSlot notes where the slot begins that was made: until the plan is saved this tells it from one
// that somebody else makes.
func noteSlot(ctx context.Context, conn *pgx.Conn, slot string, lsn cdc.LSN) error {
	if _, err := conn.Exec(ctx, "UPDATE walpost.snapshot SET lsn = $2::text::pg_lsn WHERE slot = $1", slot, lsn.String()); err != nil {
		return tableError(err)
	}
	return nil
}

func (p *plan) save(ctx context.Context, conn *pgx.Conn, slot string) error {
	parts, err := json.Marshal(p.Parts)
	if err != nil {
		return err
	}
	const update = `UPDATE walpost.snapshot SET visible = $3::text::pg_snapshot, parts = $4::text::jsonb WHERE slot = $1 AND lsn = $2::text::pg_lsn AND visible IS NULL RETURNING begun_at`
	if err := conn.QueryRow(ctx, update, slot, p.LSN.String(), p.Visible.String(), string(parts)).Scan(&p.Begun); err != nil {
		return tableError(err)
	}
	return nil
}

// load returns the plan of a slot, or nil if there is none. Planned tells whether it was made.
func load(ctx context.Context, conn *pgx.Conn, slot string) (*plan, error) {
	var (
		p                   plan
		lsn, visible, parts *string
		finished            *time.Time
	)
	const query = `SELECT begun_at, lsn::text, visible::text, parts::text, finished_at FROM walpost.snapshot WHERE slot = $1`
	err := conn.QueryRow(ctx, query, slot).Scan(&p.Begun, &lsn, &visible, &parts, &finished)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, tableError(err)
	}
	p.Finished = finished != nil
	if lsn != nil {
		p.LSN, err = cdc.ParseLSN(*lsn)
	}
	if visible == nil || parts == nil {
		return &p, err
	}
	p.Planned = true
	if err == nil {
		p.Visible, err = parseVisible(*visible)
	}
	if err = errors.Join(err, json.Unmarshal([]byte(*parts), &p.Parts)); err != nil {
		return nil, fmt.Errorf("read walpost.snapshot: %w", err)
	}
	return &p, nil
}

func finish(ctx context.Context, conn *pgx.Conn, slot string) error {
	if _, err := conn.Exec(ctx, "UPDATE walpost.snapshot SET finished_at = clock_timestamp() WHERE slot = $1 AND finished_at IS NULL", slot); err != nil {
		return tableError(err)
	}
	return nil
}

func tableError(err error) error {
	if hasCode(err, "42P01", "3F000") { // undefined_table, invalid_schema_name
		return cdc.Refuse("run walpost init, which makes what is missing", "walpost.snapshot: %w", err)
	}
	return fmt.Errorf("walpost.snapshot: %w", err)
}
