package outbox

import (
	"errors"
	"slices"
	"strings"

	"github.com/walpost/walpost/pkg/cdc"
)

// salvage makes a record of what can be read of a row that is poison, and adds to
// the error what is missing. Without the topic a record is whole: where it goes is
// no part of it.
func (r *Router) salvage(err error, p *plan, ev *cdc.Event) (*cdc.Record, error) {
	var poison *cdc.PoisonError
	if !errors.As(err, &poison) {
		return nil, err
	}
	s := &salvager{rec: cdc.NewRecord(), plan: p, ev: ev}
	rec := s.rec
	if p.route.index >= 0 {
		_ = r.setTopic(rec, p, ev) // else it has none
	}
	rec.CommitTime, rec.Timestamp = ev.Transaction.CommitTime, ev.Transaction.CommitTime
	s.try("timestamp", r.settings.Timestamp == "" || p.timestamp.index >= 0 && p.timestamp.isTime(), func() error { return setTimestamp(rec, p, ev) })
	s.try("partition", p.partition.index >= 0 && p.partition.kind == int4 || !r.settings.placesPartition(), func() error { return setPartition(rec, p, ev) })
	rec.ID = s.print("id", &p.id)
	rec.Key = s.write("key", &p.key, r.settings.KeyFormat, func() ([]byte, error) { return p.appendKey(nil, ev) })
	rec.Headers = append(rec.Headers[:0], cdc.Header{Key: HeaderID, Value: rec.ID})
	for i := range p.headers {
		rec.Headers = append(rec.Headers, cdc.Header{Key: p.headers[i].name, Value: s.print("header "+p.headers[i].name, &p.headers[i].column)})
	}
	if p.payload.index < 0 || !r.isTombstone(p, ev) {
		rec.Value = s.write("value", &p.payload, r.settings.ValueFormat, func() ([]byte, error) { return p.appendValue(nil, r.route, ev) })
	}
	if p.ce != nil && p.ce.typ.index >= 0 {
		_ = p.addCloudEvent(rec, ev) // else it has none
	}
	if r.settings.PositionHeaders {
		rec.Room(maxPosition)
		addPosition(rec, ev)
	}
	poison.Missing = strings.Join(s.missing, ",")
	return rec, err
}

// salvager reads parts of a row, and notes what it cannot read.
type salvager struct {
	rec     *cdc.Record
	plan    *plan
	ev      *cdc.Event
	missing []string
}

func (s *salvager) try(part string, can bool, read func() error) {
	if !can || read() != nil {
		s.missing = append(s.missing, part)
	}
}

// write returns a key or a value in its format. A key that is NULL has none.
func (s *salvager) write(part string, c *column, f Format, appendTo func() ([]byte, error)) []byte {
	if !f.isJSON() || part == "key" && c.index >= 0 && s.ev.Values[c.index].Format == cdc.Null {
		return s.print(part, c)
	}
	if c.index >= 0 && s.plan.err == nil {
		if b, err := appendTo(); err == nil {
			return b
		}
	}
	s.missing = append(s.missing, part)
	return nil
}

// print returns a column as it is to be printed, in memory of its own. NULL is not
// missing.
func (s *salvager) print(part string, c *column) []byte {
	if c.index >= 0 {
		v := &s.ev.Values[c.index]
		if v.Format == cdc.Null {
			return nil
		}
		if b, err := c.append([]byte{}, v); err == nil {
			return b
		}
	}
	s.missing = append(s.missing, part)
	return nil
}

func (c *column) isTime() bool { return c.kind == timestamp || c.kind == timestamptz }

func (s *settings) placesPartition() bool {
	return slices.ContainsFunc(s.places, func(p placement) bool { return p.partition })
}
