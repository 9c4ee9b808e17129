package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"strconv"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jackc/pgx/v5"

	"github.com/walpost/walpost/internal/sleep"
)

// sessions is how many connections write.
const sessions = 8

// What a writer gives for one row and for more, with the ids of the aggregates and the payloads
// as parameters. Both are planned once, as an application's would be.
const (
	insertOne  = `INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', $1, 'created', $2)`
	insertMany = `INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
		SELECT 'order', id, 'created', payload FROM unnest($1::text[], $2::jsonb[]) AS t (id, payload)`
)

// writeShare commits the transactions of one session, each when it is due or as soon as the
// one before it is over, and records how long after that the answer came.
func writeShare(ctx context.Context, dsn string, begun time.Time, schedule []time.Duration, session int, l load, took *hdrhistogram.Histogram) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "SET plan_cache_mode = force_generic_plan"); err != nil {
		return err
	}
	pads := newPads()
	ids, payloads := make([]string, l.batch), make([]string, l.batch)
	for i := session; i < len(schedule); i += sessions {
		due := begun.Add(schedule[i])
		for n := range l.batch {
			ids[n], payloads[n] = "order-"+strconv.Itoa((i*l.batch+n)%1000), payload(due, pads.next())
		}
		if err := sleep.Until(ctx, due); err != nil {
			return err
		}
		if l.batch == 1 {
			_, err = conn.Exec(ctx, insertOne, ids[0], payloads[0])
		} else {
			_, err = conn.Exec(ctx, insertMany, ids, payloads)
		}
		if err != nil {
			return err
		}
		if schedule[i] >= l.cold {
			if err := took.RecordValue(time.Since(due).Microseconds()); err != nil {
				return err
			}
		}
	}
	return nil
}

// dueHead is how a payload begins, as jsonb has it too.
const dueHead = `{"due": `

// payload is of some 300 bytes.
func payload(due time.Time, pad string) string {
	return dueHead + strconv.FormatInt(due.UnixNano(), 10) + `, "pad": "` + pad + `"}`
}

// dueOf is when the event with that payload was due.
func dueOf(payload []byte) (time.Time, bool) {
	rest, ok := bytes.CutPrefix(payload, []byte(dueHead))
	digits, _, more := bytes.Cut(rest, []byte(","))
	ns, err := strconv.ParseInt(string(digits), 10, 64)
	return time.Unix(0, ns), ok && more && err == nil
}

// padBytes fills a payload up to some 300 bytes.
const padBytes = 260

// pads is random text, so much that it does not repeat itself within what is compressed at
// once.
type pads struct {
	text string
	at   int
}

func newPads() *pads {
	random := make([]byte, 1<<20)
	_, _ = rand.Read(random) // never fails
	return &pads{text: base64.RawStdEncoding.EncodeToString(random)}
}

// next is the text for the next row.
func (p *pads) next() string {
	if p.at+padBytes > len(p.text) {
		p.at = 0
	}
	p.at += padBytes
	return p.text[p.at-padBytes : p.at]
}
