package bench

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walpost/walpost/internal/progress"
)

const (
	// Rows of a statement, and bytes of their payloads; the smaller bounds it.
	pieceRows  = 1000
	pieceBytes = 4 << 20

	// roundStatements is how many are sent before their answers are waited for.
	roundStatements = 500

	// The payload is JSON as Postgres prints it: {"n": 1, "pad": "..."}.
	payloadBegin = `{"n": `
	payloadRest  = `, "pad": ""}`

	insertName = "insert"
)

// insertion is a statement that writes the events from number $1 to $2. The ids and the
// text that fills the payload come from hashes: an index and a codec meet what they meet
// in earnest, or somewhat worse.
func insertion(n Names, bytes int) string {
	const statement = `
		INSERT INTO %s (id, aggregatetype, aggregateid, type, payload)
		SELECT encode(substr(sha256(convert_to(n::text, 'UTF8')), 1, 16), 'hex')::uuid, 'order', 'order-' || n %% 1000, 'created',
			jsonb_build_object('n', n, 'pad', left(
				(SELECT string_agg(encode(sha256(convert_to(n || '/' || k, 'UTF8')), 'hex'), '') FROM generate_series(1, %d) k), %d - length(n::text)))
		FROM generate_series($1::bigint, $2::bigint) n`
	pad := bytes - len(payloadBegin) - len(payloadRest)
	return fmt.Sprintf(statement, n.qualified(), pad/64+1, pad)
}

// piece is what one statement writes.
type piece struct {
	first, last int64
	commit      bool // it ends its transaction
}

// pieces cuts the numbers from 1 on into transactions of batch, and these into pieces of
// rows at the most.
func pieces(events, batch, rows int64) iter.Seq[piece] {
	return func(yield func(piece) bool) {
		for first := int64(1); first <= events; {
			end := min((first-1)/batch*batch+batch, events) // of the transaction
			p := piece{first, min(first+rows-1, end), false}
			p.commit = p.last == end
			if !yield(p) {
				return
			}
			first = p.last + 1
		}
	}
}

// newWriter returns a session with the statement prepared, under its name. To plan it for
// each transaction anew would take longer than all else.
func (b *bench) newWriter(ctx context.Context) (*pgx.Conn, error) {
	conn, err := b.cfg.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if _, err = conn.Exec(ctx, "SET plan_cache_mode = force_generic_plan"); err == nil {
		_, err = conn.Prepare(ctx, insertName, insertion(b.names, b.cfg.Bytes))
	}
	if err != nil {
		hangUp(conn)
		return nil, err
	}
	return conn, nil
}

// load writes the backlog. Commits are not waited for one by one: it is not what is
// measured, and the last one flushes all.
func (b *bench) load(ctx context.Context) error {
	b.say("writing %s events of %d bytes to %s", humanize.Comma(int64(b.cfg.Events)), b.cfg.Bytes, b.names.qualified())
	begun := time.Now()
	bar := progress.New(b.cfg.Out, "load", int64(b.cfg.Events))
	defer bar.Done()
	ctx, alive, stop := watch(ctx, b.cfg.Patience)
	defer stop()
	conn, err := b.newWriter(ctx)
	if err != nil {
		return because(ctx, err)
	}
	defer hangUp(conn)
	if _, err := conn.Exec(ctx, "SET synchronous_commit = off"); err != nil {
		return because(ctx, err)
	}
	err = b.write(ctx, conn.PgConn(), bar, alive)
	if err == nil {
		_, err = conn.Exec(ctx, "SET synchronous_commit = on; COMMENT ON TABLE "+b.names.qualified()+" IS 'Made by walpost bench'")
	}
	b.sum.Load = Load{Events: b.cfg.Events, Took: time.Since(begun)}
	return because(ctx, err)
}

// write sends the statements in rounds. A transaction is what is between two syncs.
func (b *bench) write(ctx context.Context, conn *pgconn.PgConn, bar progress.Bar, alive func()) error {
	p := conn.StartPipeline(ctx)
	rows := max(1, min(pieceRows, int64(pieceBytes/b.cfg.Bytes)))
	var sent, answers int
	var queued, size int64
	for piece := range pieces(int64(b.cfg.Events), int64(b.cfg.Batch), rows) {
		p.SendQueryPrepared(insertName, [][]byte{strconv.AppendInt(nil, piece.first, 10), strconv.AppendInt(nil, piece.last, 10)}, nil, nil)
		sent, answers, queued, size = sent+1, answers+1, piece.last, size+piece.last-piece.first+1
		if piece.commit {
			p.SendPipelineSync()
			answers++
		}
		if sent < roundStatements && size < rows && piece.last < int64(b.cfg.Events) {
			continue
		}
		if err := flush(p, answers); err != nil {
			return fmt.Errorf("%w, of %d events %d were written before", because(ctx, err), b.cfg.Events, bar.At())
		}
		alive()
		bar.Set(queued)
		sent, answers, size = 0, 0, 0
	}
	if err := p.Sync(); err != nil { // after a flush a pipeline wants one
		return err
	}
	return p.Close()
}

// flush sends what is queued, and reads so many answers.
func flush(p *pgconn.Pipeline, answers int) error {
	p.SendFlushRequest()
	if err := p.Flush(); err != nil {
		return err
	}
	for range answers {
		result, err := p.GetResults()
		if err != nil {
			return err
		}
		if r, ok := result.(*pgconn.ResultReader); ok {
			if _, err := r.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

// watch returns a context that ends when alive is not called for as long as patience
// lasts. Stop releases it.
func watch(ctx context.Context, patience time.Duration) (_ context.Context, alive, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(patience, func() { cancel(fmt.Errorf("no answer for %s", patience)) })
	return ctx, func() { timer.Reset(patience) }, func() { timer.Stop(); cancel(nil) }
}
