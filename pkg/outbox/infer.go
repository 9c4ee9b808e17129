package outbox

import (
	"bytes"
	"cmp"
	"math"
	"strconv"
)

// infer returns the schema that Kafka Connect is to have for a payload that is expanded,
// and the document as that schema has it: each object with all fields that the others of
// its array have. It is false for what is not expandable, and where no schema can hold the
// document without loss: an array of several types, an integer beyond int64, a number
// beyond double, a field twice or without a name. name is what the schemas' names begin
// with, and field what the payload is called in an envelope.
func infer(text []byte, name, field string) (schema, doc []byte, ok bool) {
	if !expandable(text) {
		return nil, nil, false
	}
	r := reader{rest: text}
	n := r.value()
	var s shape
	if r.failed || !s.add(&n) {
		return nil, nil, false
	}
	var quoted []byte
	if field != "" {
		quoted = appendJSONString(nil, []byte(field))
	}
	path := appendJSONString(nil, []byte(name))
	limit := maxInferred + 4*len(text)
	schema, doc = s.appendSchema(nil, path[1:len(path)-1], quoted, limit), s.appendValue(nil, &n, limit)
	return schema, doc, len(schema) <= limit && len(doc) <= limit
}

// maxInferred bounds what becomes of a small document whose objects have no fields in
// common, or lie deep in each other: the square of its length else.
const maxInferred = 1 << 20

// node is a JSON value.
type node struct {
	typ    string   // of Connect; "" for null
	text   []byte   // of a scalar, as it is written
	names  [][]byte // of fields, as JSON strings
	places []int    // of fields, in the shape
	items  []node   // fields or elements
}

// reader reads valid JSON. After it has failed, what it returns means nothing.
type reader struct {
	rest   []byte
	failed bool
}

// next skips white space and commas, and returns the byte behind them.
func (r *reader) next() byte {
	r.rest = bytes.TrimLeft(r.rest, " \t\r\n,:")
	return r.rest[0]
}

func (r *reader) value() node {
	switch r.next() {
	case '{':
		return r.object()
	case '[':
		n := node{typ: "array"}
		for r.rest = r.rest[1:]; r.next() != ']'; {
			n.items = append(n.items, r.value())
		}
		r.rest = r.rest[1:]
		return n
	case '"':
		return node{typ: "string", text: r.string()}
	case 't':
		return node{typ: "boolean", text: r.cut(len("true"))}
	case 'f':
		return node{typ: "boolean", text: r.cut(len("false"))}
	case 'n':
		r.cut(len("null"))
		return node{}
	}
	return r.number()
}

func (r *reader) object() node {
	n := node{typ: "struct"}
	for r.rest = r.rest[1:]; r.next() != '}'; {
		name := r.string()
		r.failed = r.failed || len(name) == len(`""`)
		n.names, n.items = append(n.names, name), append(n.items, r.value())
	}
	r.rest = r.rest[1:]
	return n
}

func (r *reader) cut(n int) []byte {
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) string() []byte {
	s := r.cut(stringLength(r.rest))
	return appendRewritten(nil, s[1:len(s)-1])
}

func (r *reader) number() node {
	text := r.cut(numberLength(r.rest))
	n := node{typ: "double", text: appendNumber(nil, text)}
	if !isInteger(text) {
		_, err := strconv.ParseFloat(string(text), 64)
		r.failed = r.failed || err != nil
		return n
	}
	i, err := strconv.ParseInt(string(text), 10, 64)
	r.failed = r.failed || err != nil
	if n.typ = "int64"; math.MinInt32 <= i && i <= math.MaxInt32 {
		n.typ = "int32"
	}
	return n
}

// shape is what schema values have that stand in the same place.
type shape struct {
	typ    string // of Connect; "" as long as all are null
	items  *shape
	fields []shapeField
	index  map[string]int // of fields by name
	seen   int            // objects
}

type shapeField struct {
	name []byte // as a JSON string
	last int    // object that had it
	*shape
}

// add makes the shape that of one more value. It is false if there is no such shape.
func (s *shape) add(n *node) bool {
	if n.typ == "" {
		return true
	}
	if s.typ != "" && s.typ != n.typ {
		return false
	}
	s.typ = n.typ
	switch n.typ {
	case "array":
		s.items = cmp.Or(s.items, &shape{})
		for i := range n.items {
			if !s.items.add(&n.items[i]) {
				return false
			}
		}
	case "struct":
		return s.addFields(n)
	}
	return true
}

func (s *shape) addFields(n *node) bool {
	if s.index == nil {
		s.index = map[string]int{}
	}
	s.seen++
	for i, name := range n.names {
		at, ok := s.index[string(name)]
		if !ok {
			at = len(s.fields)
			s.index[string(name)] = at
			s.fields = append(s.fields, shapeField{name: name, shape: &shape{}})
		}
		f := &s.fields[at]
		if f.last == s.seen || !f.add(&n.items[i]) {
			return false
		}
		f.last = s.seen
		n.places = append(n.places, at)
	}
	return true
}

// appendSchema appends the schema, until dst is longer than the limit. A struct is named by
// the path to it, but not within an array of arrays. What is always null is optional bytes,
// as Debezium has it, and what is in arrays that are always empty too.
func (s *shape) appendSchema(dst, path, field []byte, limit int) []byte {
	if len(dst) > limit {
		return dst
	}
	dst = append(append(append(dst, `{"type":"`...), cmp.Or(s.typ, "bytes")...), '"')
	switch s.typ {
	case "array":
		within := path
		if s.items.typ != "struct" {
			within = nil
		}
		dst = s.items.appendSchema(append(dst, `,"items":`...), within, nil, limit)
	case "struct":
		dst = append(dst, `,"fields":[`...)
		for i, f := range s.fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			name := f.name[1 : len(f.name)-1]
			if len(bytes.TrimSpace(path)) > 0 {
				name = bytes.Join([][]byte{path, name}, []byte("."))
			}
			dst = f.appendSchema(dst, name, f.name, limit)
		}
		dst = append(dst, ']')
	}
	dst = append(dst, `,"optional":true`...)
	if s.typ == "struct" && path != nil {
		dst = append(append(append(dst, `,"name":"`...), path...), '"')
	}
	if field != nil {
		dst = append(append(dst, `,"field":`...), field...)
	}
	return append(dst, '}')
}

// appendValue appends one of the shape's values, until dst is longer than the limit.
func (s *shape) appendValue(dst []byte, n *node, limit int) []byte {
	if len(dst) > limit {
		return dst
	}
	switch n.typ {
	case "":
		return append(dst, null...)
	case "array":
		dst = append(dst, '[')
		for i := range n.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = s.items.appendValue(dst, &n.items[i], limit)
		}
		return append(dst, ']')
	case "struct":
		return s.appendFields(dst, n, limit)
	}
	return append(dst, n.text...)
}

func (s *shape) appendFields(dst []byte, n *node, limit int) []byte {
	values := make([]node, len(s.fields)) // null where the object lacks the field
	for i, at := range n.places {
		values[at] = n.items[i]
	}
	dst = append(dst, '{')
	for i, f := range s.fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = f.appendValue(append(append(dst, f.name...), ':'), &values[i], limit)
	}
	return append(dst, '}')
}
