package outbox

import (
	"errors"
	"fmt"
	"slices"

	"github.com/walpost/walpost/pkg/cdc"
)

// Router makes records of the rows of outbox tables, by the rules of Debezium's
// outbox event router.
//
// The key, the placed headers and the route are printed as Debezium prints
// them: numbers in decimal, floating-point ones as Java does, booleans as true and false,
// dates in days and timestamps in microseconds since 1970 (milliseconds if the type keeps
// at most three digits of a second), timestamptz as in 2024-02-29T07:04:56.789012Z,
// intervals and times of day in microseconds, bytea and bit strings in base64 in a header,
// bytea raw elsewhere, arrays, points and numerics of no fixed scale as JSON in a header. All other
// types, and domains, are printed as Postgres does. The payload follows the same rules;
// text, json, jsonb and bytea are passed on untouched, and NULL is a null value.
//
// A Router is for one goroutine.
type Router struct {
	settings settings
	plans    map[uint32]*plan // by the relation's OID
	route    []byte           // the value at hand; used again
	written  []byte           // a key and a value in another format than raw; used again
}

// maxPlans bounds the relations that are remembered: partitions come and go.
const maxPlans = 1024

// NewRouter returns a Router, or an error that joins every problem of cfg. Each
// is a [cdc.RefusedError] which names its setting, as in "outbox.place: ...".
func NewRouter(cfg Config) (*Router, error) {
	s, err := cfg.withDefaults().validate()
	if err != nil {
		return nil, err
	}
	return &Router{settings: s, plans: map[uint32]*plan{}}, nil
}

// Columns returns the names of the columns that the router reads, each of which
// every outbox table must have.
func (r *Router) Columns() []string {
	s := &r.settings
	names := []string{s.ID, s.Key, s.Route, s.Payload}
	for _, name := range []string{s.Timestamp, s.SchemaVersion} {
		if name != "" {
			names = append(names, name)
		}
	}
	if s.CloudEvents {
		names = append(names, DefaultType)
	}
	for _, p := range s.places {
		if !s.MissingIgnored {
			names = append(names, p.column)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Route makes a record of a row, of whatever relation: which rows are the outbox's only
// the source knows. The record holds copies of all it needs, in
// its Buf, and belongs to the caller. A row that can never be published is a
// [cdc.PoisonError] with the table and, if it can be read, the id; with it comes a
// record of what can be read. Any other error is a row that an insert cannot have.
//
// Once it knows the relation and the route Route allocates nothing, given that
// records come back through [cdc.Record.Free].
func (r *Router) Route(ev *cdc.Event) (*cdc.Record, error) {
	p := r.plan(ev.Relation)
	if err := check(ev); err != nil {
		return nil, err
	}
	rec := cdc.NewRecord()
	if err := r.fill(rec, p, ev); err != nil {
		rec.Free()
		return r.salvage(identify(err, p, ev), p, ev)
	}
	return rec, nil
}

func (r *Router) plan(rel *cdc.Relation) *plan {
	if p := r.plans[rel.OID]; p != nil && p.relation == rel {
		return p
	}
	if len(r.plans) >= maxPlans {
		clear(r.plans)
	}
	p := r.settings.compile(rel)
	r.plans[rel.OID] = p
	return p
}

// check refuses what the protocol does not allow in an insert.
func check(ev *cdc.Event) error {
	if len(ev.Values) != len(ev.Relation.Columns) {
		return fmt.Errorf("row of table %s at %s has %d values for %d columns",
			tableOf(ev.Relation), ev.LSN, len(ev.Values), len(ev.Relation.Columns))
	}
	for i := range ev.Values {
		switch ev.Values[i].Format {
		case cdc.Null, cdc.Text, cdc.Binary:
		case cdc.Unchanged:
			return fmt.Errorf("column %q of table %s at %s: %w", ev.Relation.Columns[i].Name, tableOf(ev.Relation), ev.LSN, errUnchanged)
		default:
			return fmt.Errorf("column %q of table %s at %s has the unknown format %q",
				ev.Relation.Columns[i].Name, tableOf(ev.Relation), ev.LSN, ev.Values[i].Format)
		}
	}
	return nil
}

// fill fills rec from the row.
func (r *Router) fill(rec *cdc.Record, p *plan, ev *cdc.Event) error {
	if p.err != nil {
		return p.err
	}
	if err := r.setTopic(rec, p, ev); err != nil {
		return err
	}
	rec.CommitTime = ev.Transaction.CommitTime
	if err := setTimestamp(rec, p, ev); err != nil {
		return err
	}
	if err := setPartition(rec, p, ev); err != nil {
		return err
	}
	key, value, err := r.write(p, ev)
	if err != nil {
		return err
	}
	// What is appended below must not move the buffer.
	rec.Room(p.bound(ev) + len(key) + len(value) + maxPosition)
	if err := r.setBytes(rec, p, ev, key, value); err != nil {
		return err
	}
	if p.ce != nil {
		if err := p.addCloudEvent(rec, ev); err != nil {
			return err
		}
	}
	if r.settings.PositionHeaders {
		addPosition(rec, ev)
	}
	return nil
}

func (r *Router) setTopic(rec *cdc.Record, p *plan, ev *cdc.Event) (err error) {
	v := &ev.Values[p.route.index]
	if v.Format == cdc.Null {
		return cdc.Poison(cdc.PoisonTopic, "column %s, which names the topic, is NULL", p.name(&p.route))
	}
	if r.route, err = p.route.append(r.route[:0], v); err != nil {
		return p.unreadable(&p.route, cdc.PoisonTopic, err)
	}
	rec.Topic = r.settings.topics.of(r.route)
	return nil
}

var errTime = errors.New("the time is infinite or before 1970, and Kafka has none such")

func setTimestamp(rec *cdc.Record, p *plan, ev *cdc.Event) error {
	rec.Timestamp = rec.CommitTime
	if p.timestamp.index < 0 || ev.Values[p.timestamp.index].Format == cdc.Null {
		return nil
	}
	m, err := readMicros(&ev.Values[p.timestamp.index])
	if err == nil && (m == infinite || m < -epoch) {
		err = errTime
	}
	if err != nil {
		return p.unreadable(&p.timestamp, cdc.PoisonRow, err)
	}
	rec.Timestamp = unixTime(m)
	return nil
}

func setPartition(rec *cdc.Record, p *plan, ev *cdc.Event) error {
	if p.partition.index < 0 || ev.Values[p.partition.index].Format == cdc.Null {
		return nil // the key decides
	}
	n, err := readInt4(&ev.Values[p.partition.index])
	if err == nil && n < 0 {
		err = fmt.Errorf("there is no partition %d", n)
	}
	if err != nil {
		return p.unreadable(&p.partition, cdc.PoisonRow, err)
	}
	rec.Partition = n
	return nil
}

// write makes the key and the value in r.written, where their formats are not raw. They
// are nil else, and until the next row.
func (r *Router) write(p *plan, ev *cdc.Event) (key, value []byte, err error) {
	r.written = r.written[:0]
	if r.settings.KeyFormat.isJSON() && ev.Values[p.key.index].Format != cdc.Null {
		if r.written, err = p.appendKey(r.written, ev); err != nil {
			return nil, nil, err
		}
		key = r.written
	}
	if r.settings.ValueFormat.isJSON() && !r.isTombstone(p, ev) {
		start := len(r.written)
		if r.written, err = p.appendValue(r.written, r.route, ev); err != nil {
			return nil, nil, err
		}
		value = r.written[start:]
	}
	return key, value, nil
}

// isTombstone reports whether the value is null whatever the format.
func (r *Router) isTombstone(p *plan, ev *cdc.Event) bool {
	return r.settings.TombstoneOnEmpty && p.isEmpty(ev)
}

// setBytes prints the columns into the record's buffer, which is large enough, and copies
// there what write has made.
func (r *Router) setBytes(rec *cdc.Record, p *plan, ev *cdc.Event, key, value []byte) (err error) {
	if rec.ID, err = p.print(rec, &p.id, ev, cdc.PoisonRow); err != nil {
		return err
	}
	if key != nil {
		rec.Key = keep(rec, key)
	} else if rec.Key, err = p.print(rec, &p.key, ev, cdc.PoisonKey); err != nil {
		return err
	}
	if rec.Key == nil {
		return cdc.Poison(cdc.PoisonKey, "column %s, the key, is NULL, so that the row has no place in any order", p.name(&p.key))
	}
	rec.Headers = append(rec.Headers[:0], cdc.Header{Key: HeaderID, Value: rec.ID})
	for i := range p.headers {
		h := &p.headers[i]
		value, err := p.print(rec, &h.column, ev, cdc.PoisonRow)
		if err != nil {
			return err
		}
		rec.Headers = append(rec.Headers, cdc.Header{Key: h.name, Value: value})
	}
	switch {
	case value != nil:
		rec.Value = keep(rec, value)
	case r.isTombstone(p, ev):
		rec.Value = nil
	default:
		rec.Value, err = p.print(rec, &p.payload, ev, cdc.PoisonRow)
	}
	return err
}

// keep copies b into the record's buffer.
func keep(rec *cdc.Record, b []byte) []byte {
	start := len(rec.Buf)
	rec.Buf = append(rec.Buf, b...)
	return rec.Buf[start:len(rec.Buf):len(rec.Buf)]
}

// bound returns the most bytes that setBytes appends.
func (p *plan) bound(ev *cdc.Event) int {
	n := p.id.bound(&ev.Values[p.id.index]) + p.key.bound(&ev.Values[p.key.index]) + p.payload.bound(&ev.Values[p.payload.index])
	for i := range p.headers {
		n += p.headers[i].bound(&ev.Values[p.headers[i].index])
	}
	if p.ce != nil {
		n += p.ce.typ.bound(&ev.Values[p.ce.typ.index]) + maxCETime
	}
	return n
}

// print appends a column to the record's buffer and returns what it appended,
// or nil for NULL.
func (p *plan) print(rec *cdc.Record, c *column, ev *cdc.Event, reason cdc.PoisonReason) ([]byte, error) {
	v := &ev.Values[c.index]
	if v.Format == cdc.Null {
		return nil, nil
	}
	start := len(rec.Buf)
	buf, err := c.append(rec.Buf, v)
	if err != nil {
		return nil, p.unreadable(c, reason, err)
	}
	rec.Buf = buf
	return buf[start:len(buf):len(buf)], nil
}

// name returns a column with its table, for messages.
func (p *plan) name(c *column) string {
	return fmt.Sprintf("%q of table %s", p.relation.Columns[c.index].Name, tableOf(p.relation))
}

func (p *plan) unreadable(c *column, reason cdc.PoisonReason, err error) error {
	return cdc.Poison(reason, "read column %s: %w", p.name(c), err)
}

// identify adds to a PoisonError which row it is.
func identify(err error, p *plan, ev *cdc.Event) error {
	var poison *cdc.PoisonError
	if !errors.As(err, &poison) {
		return err
	}
	named := *poison // the plan's own error is shared by all rows
	named.Table = tableOf(p.relation).String()
	if p.id.index >= 0 && ev.Values[p.id.index].Format != cdc.Null {
		if id, err := p.id.append(nil, &ev.Values[p.id.index]); err == nil {
			named.ID = string(id)
		}
	}
	return &named
}
