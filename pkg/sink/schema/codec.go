package schema

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
)

// codec appends a payload to dst in the wire format. An error says that the payload does not
// fit, and nothing of what is in it.
type codec interface {
	append(dst, payload []byte) ([]byte, error)
}

// unusableError is a schema that nothing can be written with.
type unusableError struct{ err error }

func (e *unusableError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *unusableError) Unwrap() error { return e.err }

// maxReferences bounds the schemas that one refers to, at all depths.
const maxReferences = 100

// reference is a schema and the name that another one has for it.
type reference struct{ name, text string }

// source is the hash of what a schema is made of: its id, its text and all that it refers to. The
// id alone is another schema's in a registry that was made anew.
type source [sha256.Size]byte

func sourceOf(latest sr.SubjectSchema, refs []reference) (s source) {
	h := sha256.New()
	fmt.Fprintf(h, "%d %d %q", latest.ID, latest.Type, latest.Schema.Schema) //nolint:errcheck // it never fails
	for _, ref := range refs {
		fmt.Fprintf(h, " %q %q", ref.name, ref.text) //nolint:errcheck // it never fails
	}
	h.Sum(s[:0])
	return s
}

// compiled is a schema in memory.
type compiled struct {
	codec
	source source
	topics int // that have it
}

// fetch returns a subject's latest schema, which need not be made if it is one of those given.
func (s *Sink) fetch(ctx context.Context, subject string, made map[source]*compiled) (*compiled, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	latest, err := s.client.SchemaByVersion(ctx, subject, -1)
	if err != nil {
		return nil, err
	}
	refs, err := s.references(ctx, latest.Schema, nil)
	if err != nil {
		return nil, err
	}
	from := sourceOf(latest, refs)
	if c := made[from]; c != nil {
		return c, nil
	}
	var c codec
	switch latest.Type {
	case sr.TypeJSON:
		c, err = newJSON(latest.ID, latest.Schema.Schema, refs)
	case sr.TypeAvro:
		c, err = newAvro(latest.ID, latest.Schema.Schema, refs)
	default:
		err = errors.New("want JSON or AVRO")
	}
	if err != nil {
		return nil, &unusableError{fmt.Errorf("%s schema %d: %w", latest.Type, latest.ID, err)}
	}
	return &compiled{codec: c, source: from}, nil
}

// references appends what a schema refers to, each behind what it refers to itself.
func (s *Sink) references(ctx context.Context, of sr.Schema, found []reference) ([]reference, error) {
	for _, ref := range of.References {
		if slices.ContainsFunc(found, func(r reference) bool { return r.name == ref.Name }) {
			continue
		}
		if len(found) >= maxReferences {
			return nil, &unusableError{fmt.Errorf("it refers to more than %d schemas", maxReferences)}
		}
		got, err := s.client.SchemaByVersion(ctx, ref.Subject, ref.Version)
		if err != nil {
			return nil, fmt.Errorf("reference to subject %s: %w", ref.Subject, err)
		}
		if found, err = s.references(ctx, got.Schema, found); err != nil {
			return nil, err
		}
		found = append(found, reference{ref.Name, got.Schema.Schema})
	}
	return found, nil
}

// headerBytes is how much appendHeader appends.
const headerBytes = 5

func appendHeader(dst []byte, id int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, magic), uint32(id))
}

type jsonCodec struct {
	id     int
	schema *jsonschema.Schema
}

// location is the schema's own, where it does not name one.
const location = "walpost:///schema.json"

func newJSON(id int, text string, refs []reference) (codec, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7) // as Confluent's own serialiser does
	docs := registered{}
	for _, ref := range refs {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(ref.text))
		if err != nil {
			return nil, fmt.Errorf("reference %s: %w", ref.name, err)
		}
		docs[ref.name] = doc
	}
	c.UseLoader(docs)
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	if err := c.AddResource(location, doc); err != nil {
		return nil, err
	}
	schema, err := c.Compile(location)
	return jsonCodec{id, schema}, err
}

// registered are the only documents that a schema may refer to, by the names that it is
// registered with: none is read from the network or a disk.
type registered map[string]any

// Load implements [jsonschema.URLLoader].
func (r registered) Load(url string) (any, error) {
	for name, doc := range r {
		if url == name || strings.HasSuffix(url, "/"+name) {
			return doc, nil
		}
	}
	return nil, fmt.Errorf("%s is none of its references", url)
}

func (c jsonCodec) append(dst, payload []byte) ([]byte, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err != nil {
		return nil, errNoJSON
	}
	if err := c.schema.Validate(doc); err != nil {
		return nil, fmt.Errorf("JSON schema %d, %s", c.id, broken(err))
	}
	return append(appendHeader(dst, c.id), payload...), nil
}

var errNoJSON = errors.New("it is not JSON")

// broken names the rule that a document breaks. What the document holds is not said.
func broken(err error) string {
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return "it cannot be compared"
	}
	for len(invalid.Causes) > 0 {
		invalid = invalid.Causes[0]
	}
	_, place, _ := strings.Cut(invalid.SchemaURL, "#")
	return "rule #" + strings.Join(append([]string{place}, invalid.ErrorKind.KeywordPath()...), "/")
}

type avroCodec struct {
	id     int
	schema *avro.Schema
}

func newAvro(id int, text string, refs []reference) (codec, error) {
	var known avro.SchemaCache
	for _, ref := range refs {
		if _, err := known.Parse(ref.text); err != nil {
			return nil, fmt.Errorf("reference %s: %w", ref.name, err)
		}
	}
	schema, err := known.Parse(text)
	return avroCodec{id, schema}, err
}

func (c avroCodec) append(dst, payload []byte) ([]byte, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err != nil {
		return nil, errNoJSON
	}
	var v any
	if err := c.schema.DecodeJSON(payload, &v); err != nil {
		return nil, c.misfit(err)
	}
	if loses(doc, v) {
		return nil, fmt.Errorf("Avro schema %d, it has a field that the schema has not", c.id) //nolint:staticcheck // a name
	}
	buf, err := c.schema.AppendEncode(appendHeader(dst, c.id), v)
	if err != nil {
		return nil, c.misfit(err)
	}
	return buf, nil
}

// misfit names the field, and not what it holds.
func (c avroCodec) misfit(err error) error {
	where := "a field is missing or of another type"
	var semantic *avro.SemanticError
	if errors.As(err, &semantic) && semantic.Field != "" {
		where = "field " + semantic.Field
	}
	return fmt.Errorf("Avro schema %d, %s", c.id, where) //nolint:staticcheck // a name
}

// loses reports whether a document has a field that is not in what was made of it. A union's
// value may be wrapped in an object with the name of its type.
func loses(doc, made any) bool {
	switch doc := doc.(type) {
	case map[string]any:
		fields, isMap := made.(map[string]any)
		for name, v := range doc {
			field, ok := fields[name]
			switch {
			case ok && loses(v, field):
				return true
			case !ok && len(doc) > 1, !ok && isMap && !isObject(v):
				return true
			case !ok && loses(v, made):
				return true
			}
		}
	case []any:
		items, _ := made.([]any)
		for i, v := range doc {
			if i < len(items) && loses(v, items[i]) {
				return true
			}
		}
	}
	return false
}

func isObject(v any) bool {
	object, ok := v.(map[string]any)
	return ok && len(object) > 0
}
