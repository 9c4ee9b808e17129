package outbox

import (
	"strconv"

	"github.com/walpost/walpost/pkg/cdc"
)

var (
	schemaBegin  = []byte(`{"schema":`)
	payloadBegin = []byte(`,"payload":`)
	null         = []byte("null")
)

// framed is what is written around a JSON value: its schema, unless the format has none.
type framed struct {
	before  []byte // up to the schema of the payload or the key
	payload []byte // that schema
	behind  []byte // what follows it, up to the name of the route, if that is in the schema
	after   []byte // what follows the route, up to the version; nil if it is in no schema
}

func frame(schema []byte) framed {
	return framed{before: schemaBegin, payload: schema, behind: payloadBegin}
}

// begin appends what is before the value. A payload schema of nil is the frame's own, and
// a version of nil is left out.
func (f framed) begin(dst, payload, route, version []byte) []byte {
	if payload == nil {
		payload = f.payload
	}
	dst = append(append(append(dst, f.before...), payload...), f.behind...)
	if f.after == nil {
		return dst
	}
	quoted := appendJSONString(nil, route)
	dst = append(append(dst, quoted[1:len(quoted)-1]...), f.after...)
	if version != nil {
		dst = append(append(dst, `,"version":`...), version...)
	}
	return append(append(dst, '}'), payloadBegin...)
}

func (f framed) end(dst []byte) []byte {
	if f.before != nil {
		return append(dst, '}')
	}
	return dst
}

// appendKey appends the key in another format than raw. It must not be NULL.
func (p *plan) appendKey(dst []byte, ev *cdc.Event) ([]byte, error) {
	dst, err := p.key.append(p.keyFrame.begin(dst, nil, nil, nil), &ev.Values[p.key.index])
	if err != nil {
		return dst, p.unreadable(&p.key, cdc.PoisonKey, err)
	}
	return p.keyFrame.end(dst), nil
}

// appendValue appends the value in another format than raw, or one with an envelope.
func (p *plan) appendValue(dst, route []byte, ev *cdc.Event) ([]byte, error) {
	var version []byte
	if p.version.index >= 0 && ev.Values[p.version.index].Format != cdc.Null {
		n, err := readInt4(&ev.Values[p.version.index])
		if err != nil {
			return dst, p.unreadable(&p.version, cdc.PoisonRow, err)
		}
		version = strconv.AppendInt(nil, int64(n), 10)
	}
	schema, doc := p.inferred(ev)
	dst = p.valueFrame.begin(dst, schema, route, version)
	if len(p.envelope) == 0 {
		dst, err := p.appendPayload(dst, doc, ev)
		return p.valueFrame.end(dst), err
	}
	dst, err := p.appendPayload(append(dst, `{"payload":`...), doc, ev)
	for i := range p.envelope {
		if err != nil {
			return dst, err
		}
		e := &p.envelope[i]
		dst = append(appendJSONString(append(dst, ','), []byte(e.name)), ':')
		dst, err = p.appendJSON(dst, &e.column, ev)
	}
	return p.valueFrame.end(append(dst, '}')), err
}

// inferred returns the schema and the document of a payload that is expanded in a schema of
// its own, and nil of any other.
func (p *plan) inferred(ev *cdc.Event) (schema, doc []byte) {
	v := &ev.Values[p.payload.index]
	if !p.expand || p.valueFrame.before == nil || v.Format == cdc.Null {
		return nil, nil
	}
	field := ""
	if len(p.envelope) > 0 {
		field = "payload"
	}
	schema, doc, ok := infer(p.payload.document(v), p.relation.Columns[p.payload.index].Name, field)
	if !ok {
		return nil, nil
	}
	return schema, doc
}

// appendPayload appends the payload, or doc if that is what it is expanded to.
func (p *plan) appendPayload(dst, doc []byte, ev *cdc.Event) ([]byte, error) {
	v := &ev.Values[p.payload.index]
	if doc != nil {
		return append(dst, doc...), nil
	}
	if p.expand && p.valueFrame.before == nil && v.Format != cdc.Null {
		if text := p.payload.document(v); expandable(text) {
			return appendExpanded(dst, text), nil
		}
	}
	return p.appendJSON(dst, &p.payload, ev)
}

// appendJSON appends a column, or null.
func (p *plan) appendJSON(dst []byte, c *column, ev *cdc.Event) ([]byte, error) {
	v := &ev.Values[c.index]
	if v.Format == cdc.Null {
		return append(dst, null...), nil
	}
	dst, err := c.append(dst, v)
	if err != nil {
		return dst, p.unreadable(c, cdc.PoisonRow, err)
	}
	return dst, nil
}

// isEmpty reports whether the payload is NULL or blank: text of nothing but what Java's
// String.trim cuts.
func (p *plan) isEmpty(ev *cdc.Event) bool {
	v := &ev.Values[p.payload.index]
	if v.Format == cdc.Null {
		return true
	}
	if k := p.payload.kind; k != text && k != other {
		return false
	}
	for _, c := range v.Data {
		if c > ' ' {
			return false
		}
	}
	return true
}
