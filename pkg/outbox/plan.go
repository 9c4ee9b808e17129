package outbox

import (
	"strings"

	"github.com/walpost/walpost/pkg/cdc"
)

// plan is a relation compiled for the router's settings.
type plan struct {
	relation *cdc.Relation

	id, key, route, payload column
	timestamp, partition    column // index -1 for none
	headers                 []header

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
	p := &plan{relation: rel, timestamp: column{index: -1}, partition: column{index: -1}}
	p.id = p.find("id", s.ID)
	p.id.base64 = true
	p.key = p.find("key", s.Key)
	p.route = p.find("route", s.Route)
	p.payload = p.find("payload", s.Payload)
	if s.Timestamp != "" {
		p.timestamp = p.findTyped("timestamp", s.Timestamp, "timestamp or timestamptz", timestamp, timestamptz)
	}
	for _, place := range s.places {
		if place.partition {
			p.partition = p.findTyped("place", place.column, "integer", int4, int4)
			continue
		}
		c := p.find("place", place.column)
		c.base64 = true
		p.headers = append(p.headers, header{place.header, c})
	}
	return p
}

// find returns the column of a name, or notes that there is none.
func (p *plan) find(setting, name string) column {
	for i, c := range p.relation.Columns {
		if c.Name == name {
			return newColumn(i, c)
		}
	}
	p.fail("table %s has no column %q, which outbox.%s names; it has %s. "+
		"Name another column, add it, or add it to the publication's column list",
		tableOf(p.relation), name, setting, columnNames(p.relation))
	return column{index: -1}
}

// findTyped returns a column that must be of one of two kinds.
func (p *plan) findTyped(setting, name, types string, a, b kind) column {
	c := p.find(setting, name)
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
