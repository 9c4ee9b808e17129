package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Translation is a walpost.yaml made of the configuration of a Debezium connector.
type Translation struct {
	YAML []byte

	// Warnings are what was risky there, or what a person must look at.
	Warnings []string
}

const outboxRouter = "io.debezium.transforms.outbox.EventRouter"

// FromDebezium translates the configuration of a connector with the outbox event router:
// the JSON that Kafka Connect's REST API takes or gives, properties of Kafka Connect, or
// those of Debezium Server. What has no counterpart, or behaves in another way, is in a
// comment. It is an error if there is no such router in it.
func FromDebezium(data []byte) (Translation, error) {
	options, err := readDebezium(data)
	if err != nil {
		return Translation{}, err
	}
	if class := options["connector.class"]; class != "" && !strings.Contains(class, "Postgres") {
		return Translation{}, fmt.Errorf("connector.class is %s: walpost stands in for PostgresConnector only", class)
	}
	t := translator{options: options, values: map[string]string{}, comments: map[string]string{}}
	if err := t.findRouter(); err != nil {
		return Translation{}, err
	}
	t.connection()
	t.router()
	t.converters()
	t.producer()
	t.rest()
	return t.result()
}

// readDebezium returns the connector's options by their names in Kafka Connect.
func readDebezium(data []byte) (map[string]string, error) {
	text := strings.TrimSpace(strings.TrimPrefix(string(data), "\ufeff"))
	if !strings.HasPrefix(text, "{") {
		return fromServer(parseProperties(text)), nil
	}
	var document map[string]any
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		return nil, fmt.Errorf("the connector's JSON cannot be read: %w", err)
	}
	if inner, ok := document["config"].(map[string]any); ok {
		document = inner
	}
	options := make(map[string]string, len(document))
	for name, value := range document {
		switch value.(type) {
		case map[string]any, []any:
			return nil, fmt.Errorf("option %s is no text, number or boolean", name)
		case nil:
			continue
		}
		options[name] = fmt.Sprint(value)
	}
	return options, nil
}

// fromServer turns options of Debezium Server, which has prefixes and escapes, into those
// of Kafka Connect.
func fromServer(options map[string]string) map[string]string {
	server := false
	for name := range options {
		server = server || strings.HasPrefix(name, "debezium.source.")
	}
	if !server {
		return options
	}
	out := map[string]string{}
	for name, value := range options {
		for _, p := range []struct{ prefix, instead string }{
			{"debezium.source.", ""},
			{"debezium.sink.kafka.producer.", "producer.override."},
			{"debezium.transforms.", "transforms."},
			{"debezium.transforms", "transforms"},
			{"debezium.predicates.", "predicates."},
			{"debezium.format.", "format."},
			{"", ""},
		} {
			if rest, ok := strings.CutPrefix(name, p.prefix); ok {
				name = p.instead + rest
				break
			}
		}
		out[name] = strings.ReplaceAll(value, "$$", "$")
	}
	for _, side := range []string{"key", "value"} {
		format, class := out["format."+side], ""
		switch format {
		case "", "json":
			class = jsonConverter
		case "simplestring":
			class = stringConverter
		case "binary":
			class = "io.debezium.converters.BinaryDataConverter"
		default:
			class = format
		}
		delete(out, "format."+side)
		out[side+".converter"] = class
		if enable, ok := out["format."+side+".schemas.enable"]; ok {
			out[side+".converter.schemas.enable"] = enable
			delete(out, "format."+side+".schemas.enable")
		}
	}
	return out
}

// translator makes settings of options, and takes those from the list.
type translator struct {
	options  map[string]string // that are not translated yet
	prefix   string            // of the router's options
	values   map[string]string // of settings
	comments map[string]string // of settings
	notes    []string
	warnings []string
}

// take returns an option and removes it.
func (t *translator) take(name string) (string, bool) {
	value, ok := t.options[name]
	delete(t.options, name)
	return strings.TrimSpace(value), ok
}

// move makes a setting of an option, if that is there.
func (t *translator) move(option, key string) {
	if value, ok := t.take(option); ok && value != "" {
		t.values[key] = value
	}
}

func (t *translator) comment(key, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if old := t.comments[key]; old != "" {
		text = old + "\n" + text
	}
	t.comments[key] = text
}

func (t *translator) note(format string, args ...any) {
	t.notes = append(t.notes, fmt.Sprintf(format, args...))
}

func (t *translator) warn(format string, args ...any) {
	t.warnings = append(t.warnings, fmt.Sprintf(format, args...))
}

// findRouter finds the transformation that is the outbox event router.
func (t *translator) findRouter() error {
	chain, _ := t.take("transforms")
	var found, others []string
	for _, name := range strings.Split(chain, ",") {
		name = strings.TrimSpace(name)
		switch class := t.options["transforms."+name+".type"]; {
		case class == outboxRouter:
			found = append(found, name)
			delete(t.options, "transforms."+name+".type")
		case name != "":
			others = append(others, fmt.Sprintf("%s (%s)", name, class))
			for option := range t.options {
				if strings.HasPrefix(option, "transforms."+name+".") {
					delete(t.options, option)
				}
			}
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("%d of the transformations %q are %s, want one: walpost stands in for connectors with the outbox event router", len(found), chain, outboxRouter)
	}
	t.prefix = "transforms." + found[0] + "."
	for _, o := range others {
		t.warn("the transformation %s has no counterpart: what it does to records is not done", o)
	}
	for _, option := range []string{t.prefix + "predicate", t.prefix + "negate"} {
		if value, ok := t.take(option); ok {
			t.note("%s=%s: walpost reads the tables of outbox.table and no others, and has no predicates", option, value)
		}
	}
	return nil
}

// connection is where the events are.
func (t *translator) connection() {
	u := url.URL{Scheme: "postgres"}
	host, _ := t.take("database.hostname")
	port, _ := t.take("database.port")
	if u.Host = host; port != "" {
		u.Host += ":" + port
	}
	if user, ok := t.take("database.user"); ok {
		u.User = url.User(user)
	}
	name, _ := t.take("database.dbname")
	u.Path = "/" + name
	query := url.Values{}
	for option, parameter := range map[string]string{
		"database.sslmode": "sslmode", "database.sslrootcert": "sslrootcert", "database.sslcert": "sslcert", "database.sslkey": "sslkey",
	} {
		if value, ok := t.take(option); ok && value != "" {
			query.Set(parameter, value)
		}
	}
	u.RawQuery = query.Encode()
	if host != "" {
		t.values["postgres.dsn"] = u.String()
	}
	if _, ok := t.take("database.password"); ok {
		t.comment("postgres.dsn", "The password was not copied: write it to a file and set postgres.password_file, or set PGPASSWORD.")
		t.warn("database.password was not copied: set postgres.password_file")
	}
	t.values["postgres.slot"] = "debezium"
	t.move("slot.name", "postgres.slot")
	t.comment("postgres.slot", "Debezium's own: stop the connector before walpost takes it over.")
	t.values["postgres.publication"] = "dbz_publication"
	t.move("publication.name", "postgres.publication")
	if mode, _ := t.take("publication.autocreate.mode"); mode != "disabled" {
		t.comment("postgres.publication", "Debezium has created it, maybe for all tables: one for the outbox table alone, of inserts, spares the server much.")
	}
	t.tables()
	if ms, ok := t.take("status.update.interval.ms"); ok {
		t.values["postgres.status_interval"] = ms + "ms"
	}
	if failover, _ := t.take("slot.failover"); failover == "true" {
		t.values["postgres.failover"] = string(FailoverOn)
	}
	if drop, _ := t.take("slot.drop.on.stop"); drop == "true" {
		t.warn("slot.drop.on.stop=true: each stop lost what was written until the next start; walpost never drops a slot. Do not stop the connector before you have set it to false")
	}
	if plugin, ok := t.take("plugin.name"); !ok || plugin != "pgoutput" {
		t.warn("plugin.name is not pgoutput, which walpost needs: its slot cannot be taken over; create another with walpost init while nothing writes")
	}
}

// tables reads table.include.list, whose entries are regular expressions.
func (t *translator) tables() {
	list, ok := t.take("table.include.list")
	if !ok {
		t.warn("table.include.list is not set: the outbox table is taken to be %s", "public.outbox")
		return
	}
	var tables []string
	for _, entry := range strings.Split(list, ",") {
		literal := strings.ReplaceAll(strings.TrimSpace(entry), `\.`, ".")
		if strings.ContainsAny(literal, `\*+?()[]|^$`) {
			t.warn("table.include.list has the pattern %q: name the tables that it means in outbox.table", entry)
			continue
		}
		tables = append(tables, literal)
	}
	if len(tables) > 0 {
		t.values["outbox.table"] = strings.Join(tables, ",")
	}
}

// result writes the file.
func (t *translator) result() (Translation, error) {
	var doc document
	for i := range settings {
		s := &settings[i]
		value, ok := t.values[s.Key]
		if !ok {
			continue
		}
		if err := s.store(new(Config), value); err != nil {
			t.warn("%s: %v", s.Key, err)
		}
		doc.add(s, value)
		if c := t.comments[s.Key]; c != "" {
			doc.comment(c)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(t.comments)) {
		if _, ok := t.values[key]; !ok {
			t.note("%s: %s", key, t.comments[key])
		}
	}
	text, err := doc.marshal()
	if err != nil {
		return Translation{}, err
	}
	var head strings.Builder
	for _, n := range t.notes {
		head.WriteString("# " + strings.ReplaceAll(n, "\n", "\n#   ") + "\n")
	}
	for _, w := range t.warnings {
		head.WriteString("# WARNING: " + strings.ReplaceAll(w, "\n", "\n#   ") + "\n")
	}
	if head.Len() > 0 {
		head.WriteString("\n")
	}
	return Translation{YAML: append([]byte(head.String()), text...), Warnings: t.warnings}, nil
}
