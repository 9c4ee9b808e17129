package outbox

import (
	"errors"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// The headers of CloudEvents in binary mode.
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
const (
	headerCEID          = "ce_id"
	headerCESource      = "ce_source"
	headerCESpecVersion = "ce_specversion"
	headerCEType        = "ce_type"
	headerCETime        = "ce_time"
	headerContentType   = "content-type"
)

var ceVersion = []byte("1.0")

// cloudEvent is what the rows of a relation have in common as CloudEvents.
type cloudEvent struct {
	typ             column
	source, content []byte
}

// cloudEvent finds what CloudEvents want.
func (p *plan) cloudEvent(s *settings) *cloudEvent {
	ce := &cloudEvent{typ: p.find("headers", DefaultType, headerForm), source: []byte(s.CloudEventsSource), content: []byte("text/plain")}
	if s.CloudEventsSource == "" {
		ce.source = []byte("/" + p.relation.Schema + "/" + p.relation.Name)
	}
	switch c := p.payload; {
	case s.ValueFormat.isJSON(), c.index >= 0 && isJSONType(p.relation.Columns[c.index].Type):
		ce.content = []byte("application/json")
	case c.kind == bytea:
		ce.content = []byte("application/octet-stream")
	}
	return ce
}

// maxCETime is the longest ce_time.
const maxCETime = len("292277026596-12-04T15:30:07.999Z")

var (
	errCEID   = errors.New("the event has no id, which CloudEvents want")
	errCEType = errors.New("the column type is NULL or empty, and CloudEvents want one")
)

// addCloudEvent adds the headers. There is room for their values in rec.Buf.
func (p *plan) addCloudEvent(rec *cdc.Record, ev *cdc.Event) error {
	typ, err := p.print(rec, &p.ce.typ, ev, cdc.PoisonRow)
	switch {
	case err != nil:
		return err
	case len(rec.ID) == 0:
		return cdc.Poison(cdc.PoisonRow, "%w", errCEID)
	case len(typ) == 0:
		return cdc.Poison(cdc.PoisonRow, "%w", errCEType)
	}
	start := len(rec.Buf)
	rec.Buf = rec.Timestamp.UTC().AppendFormat(rec.Buf, time.RFC3339Nano)
	rec.Headers = append(rec.Headers,
		cdc.Header{Key: headerCESpecVersion, Value: ceVersion}, cdc.Header{Key: headerCEID, Value: rec.ID},
		cdc.Header{Key: headerCESource, Value: p.ce.source}, cdc.Header{Key: headerCEType, Value: typ},
		cdc.Header{Key: headerCETime, Value: rec.Buf[start:len(rec.Buf):len(rec.Buf)]})
	if rec.Value != nil {
		rec.Headers = append(rec.Headers, cdc.Header{Key: headerContentType, Value: p.ce.content})
	}
	return nil
}
