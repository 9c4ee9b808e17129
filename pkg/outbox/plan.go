package outbox

import (
	"slices"
	"strings"

	"github.com/walpost/walpost/pkg/cdc"
)

// plan is a relation compiled for the router's settings.
type plan struct {
	relation *cdc.Relation

	id, key, route, payload column
	timestamp, partition    column // index -1 for none
	headers                 []header
	envelope                []header // columns in the value beside the payload

	keyFrame, valueFrame framed
	version              column      // of the envelope's schema; index -1 for none
	expand               bool        // the payload, where it is a document
	ce                   *cloudEvent // nil unless the headers are CloudEvents' too

	// The relation lacks a column, or has it with another type, so that each
	// of its rows is poison. The id may be readable all the same.
	err error
}

// header is a placed column.
type header struct {
	name string
	column
}

// compile makes a plan.
func (s *settings) compile(rel *cdc.Relation) *plan {
	none := column{index: -1}
	p := &plan{relation: rel, timestamp: none, partition: none, version: none}
	p.id = p.find("id", s.ID, headerForm)
	p.key = p.find("key", s.Key, s.KeyFormat.form())
	p.route = p.find("route", s.Route, rawForm)
	p.payload = p.find("payload", s.Payload, s.ValueFormat.form())
	if s.Timestamp != "" {
		p.timestamp = p.findTyped("timestamp", s.Timestamp, "timestamp or timestamptz", timestamp, timestamptz)
	}
	for _, place := range s.places {
		p.place(place, s.MissingIgnored)
	}
	p.expand = s.ExpandJSON && (p.payload.kind == text || p.payload.kind == jsonb)
	p.checkBinary("key_format", s.KeyFormat, &p.key)
	p.checkBinary("value_format", s.ValueFormat, &p.payload)
	if s.SchemaVersion != "" {
		p.version = p.findTyped("schema_version", s.SchemaVersion, "integer", int4, int4)
	}
	if s.CloudEvents {
		p.ce = p.cloudEvent(s)
	}
	if p.err == nil {
		p.frame(s)
	}
	return p
}

// place finds a placed column.
func (p *plan) place(place placement, missingIgnored bool) {
	if missingIgnored && !slices.ContainsFunc(p.relation.Columns, func(c cdc.Column) bool { return c.Name == place.column }) {
		return
	}
	switch {
	case place.partition:
		p.partition = p.findTyped("place", place.column, "integer", int4, int4)
	case place.envelope:
		p.envelope = append(p.envelope, header{place.name, p.find("place", place.column, jsonForm)})
	default:
		p.headers = append(p.headers, header{place.name, p.find("place", place.column, headerForm)})
	}
}

// checkBinary wants bytea for the format binary.
func (p *plan) checkBinary(setting string, f Format, c *column) {
	if f == FormatBinary && c.index >= 0 && c.kind != bytea {
		p.fail("column %s is not bytea, which outbox.%s binary wants", p.name(c), setting)
	}
}

// frame makes the schemas, for the formats that have some.
func (p *plan) frame(s *settings) {
	if s.KeyFormat == FormatJSONSchema {
		p.keyFrame = frame(p.schema(&p.key, ""))
	}
	if s.ValueFormat != FormatJSONSchema {
		return
	}
	if len(p.envelope) == 0 {
		p.valueFrame = frame(p.schema(&p.payload, ""))
		return
	}
	var behind []byte
	for i := range p.envelope {
		e := &p.envelope[i]
		behind = append(append(behind, ','), p.schema(&e.column, e.name)...)
	}
	name := appendJSONString(nil, []byte(s.SchemaName+"."+p.relation.Schema+"."+p.relation.Name+"."))
	p.valueFrame = framed{
		before: append([]byte(schemaBegin), `{"type":"struct","fields":[`...), payload: p.schema(&p.payload, "payload"),
		behind: append(append(behind, `],"optional":false,"name":`...), name[:len(name)-1]...), after: []byte(`.Value"`),
	}
}

func (p *plan) schema(c *column, field string) []byte {
	return c.appendSchema(nil, p.relation.Columns[c.index], field)
}

// find returns the column of a name, or notes that there is none.
func (p *plan) find(setting, name string, f form) column {
	for i, c := range p.relation.Columns {
		if c.Name == name {
			return newColumn(i, c, f)
		}
	}
	p.fail("table %s has no column %q, which outbox.%s names; it has %s. "+
		"Name another column, add it, or add it to the publication's column list",
		tableOf(p.relation), name, setting, columnNames(p.relation))
	return column{index: -1}
}

// findTyped returns a column that must be of one of two kinds.
func (p *plan) findTyped(setting, name, types string, a, b kind) column {
	c := p.find(setting, name, rawForm)
	if c.index >= 0 && c.kind != a && c.kind != b {
		p.fail("column %q of table %s, which outbox.%s names, has the type %d in pg_type: want %s",
			name, tableOf(p.relation), setting, p.relation.Columns[c.index].Type, types)
	}
	return c
}

// fail keeps the first problem.
func (p *plan) fail(format string, args ...any) {
	if p.err == nil {
		p.err = cdc.Poison(cdc.PoisonRow, format, args...)
	}
}

func tableOf(rel *cdc.Relation) Table { return Table{rel.Schema, rel.Name} }

func columnNames(rel *cdc.Relation) string {
	names := make([]string, len(rel.Columns))
	for i, c := range rel.Columns {
		names[i] = quoteIdentifier(c.Name)
	}
	return strings.Join(names, ", ")
}
